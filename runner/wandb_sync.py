"""Upload what was logged offline, once: wandb's own ``sync`` of the runs whose cells have records."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qexp.conf.errors import RunError
from qexp.results.store import Store
from qexp.runner.wandb_account import require_wandb


@dataclass(frozen=True)
class OfflineRun:
    """``<results_dir>/wandb/offline-run-<time>-<cell id>``. A cell that was stopped and resumed has several."""

    file: Path

    @property
    def cell_id(self) -> str:
        return self.file.stem.removeprefix("run-")

    @property
    def is_synced(self) -> bool:
        """wandb leaves a marker beside the file when all of it has been uploaded."""
        return self.file.with_suffix(".wandb.synced").exists()


@dataclass(frozen=True)
class Backlog:
    """What there is to upload, and what is left where it is."""

    due: tuple[OfflineRun, ...]
    synced: int
    unfinished: int
    """Runs of cells without a record: they may still be written to, and an upload would end them half-way."""


def backlog(results_dir: Path) -> Backlog:
    """The runs that were logged offline below ``results_dir``."""
    runs = [OfflineRun(path) for path in sorted((results_dir / "wandb").glob("offline-run-*/run-*.wandb"))]
    recorded = {record.cell_id for record in Store(results_dir).query()} if runs else set()
    open_runs = [run for run in runs if not run.is_synced]
    due = tuple(run for run in open_runs if run.cell_id in recorded)
    return Backlog(due, len(runs) - len(open_runs), len(open_runs) - len(due))


def upload(runs: Sequence[OfflineRun]) -> None:
    """Let wandb upload ``runs``, each under its cell's id, those of one cell in the order in which they were begun.

    Raises:
        UserError: without a login. RunError: where W&B cannot be reached, or with what wandb said if any run was not
        uploaded; nothing is lost and the next call does the rest.
    """
    require_wandb()
    environment = {key: value for key, value in os.environ.items() if key != "WANDB_MODE"}
    command = [sys.executable, "-m", "wandb", "sync", *(str(run.file.resolve()) for run in runs)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL)
    if left := [run for run in runs if not run.is_synced]:
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        reason = lines[-1].removeprefix("wandb: ") if lines else "it said nothing"
        raise RunError(f"{len(left)} of {len(runs)} runs were not uploaded ({reason}); `qexp track sync` tries again")
