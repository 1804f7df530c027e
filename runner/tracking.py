"""Weights & Biases: the same figures as the record, online where a login exists and offline otherwise.

The record is the source of truth: whatever goes wrong here is reported once and the run goes on without tracking.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Protocol

from qexp.conf.errors import UserError
from qexp.conf.schema import ExperimentConfig
from qexp.results.schema import Record
from qexp.runner.tracked_values import SETTINGS_COLUMNS, settings_rows, summary_values
from qexp.runner.wandb_account import run_id, wandb_login

OnlineOrOffline = Literal["online", "offline"]

ADHOC = "adhoc"
"""The table of runs that belong to none: no group of W&B."""

logger = logging.getLogger(__name__)


VALIDATION = "validation/"
"""Beginning of the names of figures that were asked for by ``Tracker.validate_every``."""


class Tracker(Protocol):
    """Receives a run's figures while it goes on. Closed once, whatever happened."""

    validate_every: int | None = None
    """Steps between figures of the network as it is so far, which cost an evaluation each; None for none."""

    def log(self, metrics: Mapping[str, float], step: int) -> None: ...
    def summary(self, record: Record) -> None: ...
    def table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None: ...
    def address(self) -> str | None: ...
    def close(self, exit_code: int = 0) -> None: ...


class NullTracker:
    """``tracking=none``: nothing is logged and wandb is not imported."""

    validate_every: int | None = None

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        return None

    def summary(self, record: Record) -> None:
        return None

    def table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        return None

    def address(self) -> str | None:
        return None

    def close(self, exit_code: int = 0) -> None:
        return None


def make_tracker(cfg: ExperimentConfig, cell_id: str) -> Tracker:
    """The tracker that ``cfg.tracking`` asks for. Cheap: wandb itself starts with the first figure.

    Raises:
        UserError: if ``mode`` is ``online`` and there is no login to be online with.
    """
    mode = _mode(cfg.tracking.mode)
    return NullTracker() if mode == "none" else WandbTracker(cfg, cell_id, mode)


def _mode(wanted: str) -> Literal["online", "offline", "none"]:
    if wanted == "online" and wandb_login() is None:
        raise UserError("tracking=online needs a W&B login: run `wandb login`, or use tracking=offline")
    if wanted == "auto":
        fallback = "offline" if wandb_login() is None else "online"
        wanted = {"disabled": "none", "offline": "offline"}.get(os.environ.get("WANDB_MODE", ""), fallback)
    return "none" if wanted == "none" else "offline" if wanted == "offline" else "online"


class WandbTracker:
    """One W&B run whose id is the cell id, kept below ``<results_dir>/wandb``."""

    validate_every: int | None = None

    def __init__(self, cfg: ExperimentConfig, cell_id: str, mode: OnlineOrOffline):
        self._cfg, self._cell_id, self._mode = cfg, cell_id, mode
        self._run: Any = None
        self._failed = False

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Metrics of one training step."""
        self._attempt(lambda: self._started().log(dict(metrics), step=step))

    def summary(self, record: Record) -> None:
        """The record's figures: as summary values, as the table ``settings``, and its files as an artifact."""
        self._attempt(lambda: self._started().summary.update(summary_values(record)))
        self.table("settings", SETTINGS_COLUMNS, settings_rows(record))
        self._attempt(lambda: self._log_files(record))

    def table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        def send() -> None:
            import wandb

            self._started().log({name: wandb.Table(columns=list(columns), data=[list(row) for row in rows])})

        self._attempt(send)

    def address(self) -> str | None:
        """Where the run can be seen; None offline, and for one that has logged nothing: none is begun for its address.

        The record waits for the answer, so nothing here may wait for a network.
        """
        found: list[str | None] = [None]
        if self._run is not None:
            self._attempt(lambda: found.append(self._run.url))
        return found[-1] or None

    def close(self, exit_code: int = 0) -> None:
        """End the run, as failed when ``exit_code`` is not 0. A run that logged nothing leaves nothing."""
        run, self._run = self._run, None
        if run is not None:
            self._failed = False
            self._attempt(lambda: run.finish(exit_code=exit_code))

    def _attempt(self, action: Callable[[], object]) -> None:
        """Do ``action``; after the first failure say so, and do nothing more."""
        if self._failed:
            return
        try:
            action()
        except Exception as error:  # wandb raises many kinds, and none of them may end an experiment
            self._failed = True
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            logger.warning("W&B tracking stopped (%s); the record is not affected", reason)

    def _started(self) -> Any:
        if self._run is None:
            try:
                self._run = self._start(self._mode)
            except Exception:
                if self._mode == "offline":
                    raise
                logger.warning("W&B cannot be reached; this run is logged offline (`wandb sync` sends it later)")
                self._run = self._start("offline")
        return self._run

    def _start(self, mode: OnlineOrOffline) -> Any:
        os.environ.setdefault("WANDB_SILENT", "true")  # settings alone do not silence what wandb says before a run
        import wandb

        choice = self._cfg.tracking
        folder = Path(self._cfg.results_dir)
        folder.mkdir(parents=True, exist_ok=True)
        return wandb.init(
            mode=mode,
            dir=str(folder),
            id=run_id(self._cell_id),
            resume="allow" if mode == "online" else None,
            project=choice.project,
            entity=choice.entity,
            group=choice.group or (self._cfg.table if self._cfg.table != ADHOC else None),
            job_type=methods_of(self._cfg),
            name=_run_name(self._cfg),
            config=asdict(self._cfg),
            settings=wandb.Settings(silent=True, console="off", disable_code=True, init_timeout=30),
        )

    def _log_files(self, record: Record) -> None:
        import wandb

        folder = Path(self._cfg.results_dir) / self._cfg.table
        files = {what: folder / name for what, name in record.artifacts.items() if (folder / name).is_file()}
        if not files:
            return
        artifact = wandb.Artifact(f"qexp-{record.cell_id}", type="record-files")
        for what, path in files.items():
            artifact.add_file(str(path), name=f"{what}{path.suffix}")
        run = self._started()
        run.log_artifact(artifact)
        run.log({what: wandb.Image(str(path)) for what, path in files.items() if path.suffix == ".png"})


def methods_of(cfg: ExperimentConfig) -> str:
    return "+".join(choice.name for choice in cfg.method)


def _run_name(cfg: ExperimentConfig) -> str:
    return f"{methods_of(cfg)} {cfg.model.name} {cfg.task.name} {cfg.seed}"
