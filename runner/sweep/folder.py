"""Where a sweep keeps what it knows, below ``<results_dir>/sweeps``: plain files, readable while it runs.

``<sweep id>/plan.json`` the cells, and ``<sweep id>/trials/`` those that a search proposes while it runs;
``<sweep id>/events/`` what happened; ``<sweep id>/launches/`` one file a launch; ``<sweep id>/workers/`` what workers
wrote outside of cells. Shared by all sweeps of the results folder, because a cell may be in several: ``claims/``,
``logs/`` and ``progress/``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from qexp.conf.errors import UserError
from qexp.results.store import Store
from qexp.runner.sweep.plan import Cell, SweepPlan, read_plan, trials_of, write_plan
from qexp.runner.sweep.trials import Trials

SHARED = ("claims", "logs", "progress")


class SweepFolder:
    """One sweep on the disk."""

    def __init__(self, plan: SweepPlan, root: Path):
        self.plan, self.root = plan, root
        self.path = root / plan.sweep_id
        self.events = self.path / "events"
        self.claims = root / "claims"
        self.trials = Trials(self.path / "trials")
        self.store = Store(root.parent)

    @classmethod
    def of(cls, plan: SweepPlan) -> SweepFolder:
        """Where ``plan`` lies or would lie. Nothing is written."""
        return cls(plan, plan.results_dir / "sweeps")

    @classmethod
    def create(cls, plan: SweepPlan) -> SweepFolder:
        """The folder of ``plan``, made where it is not there yet. Raises ``UserError`` where it cannot be written."""
        folder = cls.of(plan)
        folder.store.check_writable()
        for path in (folder.events, folder.path / "launches", folder.path / "workers"):
            path.mkdir(parents=True, exist_ok=True)
        for name in SHARED:
            (folder.root / name).mkdir(exist_ok=True)
        write_plan(plan, folder.path / "plan.json")
        return cls.open(folder.path) if plan.proposes else folder

    @classmethod
    def open(cls, path: Path) -> SweepFolder:
        """The sweep in the folder ``path``. Raises ``UserError`` where there is none."""
        return cls(read_plan(path / "plan.json"), path.parent)

    def cells(self) -> tuple[Cell, ...]:
        """All cells that can be run: the plan's, or what its search has proposed so far; each once."""
        if not self.plan.proposes:
            return self.plan.cells
        return tuple({cell.cell_id: cell for cell in self.trials.read().values()}.values())

    def unproposed(self) -> tuple[Cell, ...]:
        """What a search has still to propose, in place of each such trial the plan's example without an id."""
        proposed = len(self.trials.read()) if self.plan.proposes else 0
        example = replace(self.plan.cells[0], cell_id="")
        return tuple(replace(example, label=f"trial {n}") for n in range(proposed, trials_of(self.plan)))

    def log(self, cell: Cell) -> Path:
        return self.root / "logs" / f"{cell.cell_id}.log"

    def progress(self, cell: Cell) -> Path:
        return self.root / "progress" / f"{cell.cell_id}.json"

    def has_record(self, cell: Cell) -> bool:
        """Whether the cell's record is filed under its table: one look at the disk, without reading it."""
        return self.store.path(cell.table, cell.cell_id).exists()

    def extended(self, trials: int | None) -> SweepFolder:
        """With so many trials of its search, where they are more than before."""
        if trials is None or self.plan.search is None or not self.plan.proposes:
            return self
        return self.create(replace(self.plan, search=replace(self.plan.search, trials=trials)))

    def new_launch(self, settings: Sequence[str] = ()) -> int:
        """Number of a new launch, from 1 on, with the overrides of its settings. No two launches get the same one."""
        number = self.launch() + 1
        while True:
            try:
                with (self.path / "launches" / f"{number}.json").open("x", encoding="utf-8") as file:
                    file.write(json.dumps({"settings": list(settings)}))
                return number
            except FileExistsError:
                number += 1

    def launch(self) -> int:
        """Number of the latest launch, 0 before the first."""
        return max((int(path.stem) for path in (self.path / "launches").glob("*.json")), default=0)

    def settings(self, launch: int) -> tuple[str, ...]:
        """The overrides of the sweep's own settings at ``launch``."""
        path = self.path / "launches" / f"{launch}.json"
        try:
            return tuple(json.loads(path.read_text(encoding="utf-8"))["settings"])
        except (OSError, ValueError, KeyError, TypeError):
            return ()  # it died while it wrote this, before any worker

    def cancel(self) -> None:
        """Ask every worker of the sweep, on whichever machine, to stop."""
        self._cancelled.touch()

    def cancelled(self) -> bool:
        return self._cancelled.exists()

    def allow(self) -> None:
        """Take a cancellation back, before the sweep goes on."""
        with suppress(FileNotFoundError):
            self._cancelled.unlink()

    @property
    def _cancelled(self) -> Path:
        return self.path / "cancelled"


def find_sweep(results_dir: Path, prefix: str = "") -> SweepFolder:
    """The sweep whose id begins with ``prefix``; without one, that which was launched last.

    Raises:
        UserError: if there is none, or more than one.
    """
    found = all_sweeps(results_dir)
    if not found:
        raise UserError(f"no sweep in {results_dir}; `qexp sweep method=a,b` starts one")
    chosen = [path for path in found if path.name.startswith(prefix)]
    if not chosen:
        raise UserError(f"no sweep in {results_dir} begins with {prefix!r}; there are: {_named(found)}")
    if prefix and len(chosen) > 1:
        raise UserError(f"{prefix!r} is the beginning of {len(chosen)} sweeps: {_named(chosen)}")
    return SweepFolder.open(chosen[0])


def all_sweeps(results_dir: Path) -> list[Path]:
    """Folders of all sweeps, the one launched last first."""
    paths = [path.parent for path in (results_dir / "sweeps").glob("*/plan.json")]
    return sorted(paths, key=_launched, reverse=True)


def _launched(path: Path) -> float:
    with suppress(OSError):
        return (path / "launches").stat().st_mtime
    return 0.0


def _named(paths: list[Path]) -> str:
    names = ", ".join(path.name for path in paths[:4])
    return names if len(paths) <= 4 else f"{names} and {len(paths) - 4} more"
