"""The state of a sweep, put together from what lies on the disk: the same from any terminal, at any time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Literal

from qexp.runner.sweep.claims import Claims
from qexp.runner.sweep.events import Event, EventReader
from qexp.runner.sweep.folder import SweepFolder
from qexp.runner.sweep.plan import Cell
from qexp.runner.sweep.progress import Progress, read_progress

Status = Literal["finished", "diverged", "failed", "pruned", "running", "waiting"]
STATUSES: tuple[Status, ...] = ("finished", "diverged", "failed", "pruned", "running", "waiting")


@dataclass(frozen=True)
class CellState:
    cell: Cell
    status: Status
    message: str = ""
    """Why it failed, or who runs it."""
    seconds: float | None = None
    """What it took, of a cell with a record."""
    progress: Progress | None = None

    @property
    def settled(self) -> bool:
        return self.status in ("finished", "diverged", "failed", "pruned")


@dataclass(frozen=True)
class Snapshot:
    """All cells at one moment."""

    cells: tuple[CellState, ...]

    def counts(self) -> dict[Status, int]:
        """Status -> number of cells, of those that there are."""
        found = Counter(state.status for state in self.cells)
        return {status: found[status] for status in STATUSES if found[status]}

    @property
    def settled(self) -> bool:
        return all(state.settled for state in self.cells)

    def seconds_left(self) -> float | None:
        """Estimate from the mean time of the cells with a record and what runs now; None while there is no such cell.

        Cells of a sweep differ, so it is no more than an estimate.
        """
        took = [state.seconds for state in self.cells if state.seconds]
        open_cells = [state for state in self.cells if not state.settled]
        if not took or not open_cells:
            return None if open_cells else 0.0
        running = sum(state.status == "running" for state in self.cells)
        return mean(took) * len(open_cells) / max(1, running)


class Watch:
    """Looks at a sweep again and again, reading each time only what is new. ``launch`` decides which failures count:
    a new launch tries again what failed before."""

    def __init__(self, folder: SweepFolder, launch: int):
        self._folder, self._launch = folder, launch
        self._claims = Claims(folder.claims)
        self._reader = EventReader(folder.events)
        self._ended: dict[str, Event] = {}
        self._settled: dict[str, CellState] = {}
        self.events: list[Event] = []
        """All events so far, in the order in which they were read."""

    def look(self) -> Snapshot:
        self._read()
        running = self._claims.names()
        unproposed = [CellState(cell, "waiting") for cell in self._folder.unproposed()]
        return Snapshot((*(self._state(cell, running) for cell in self._folder.cells()), *unproposed))

    def _read(self) -> None:
        new: Sequence[Event] = self._reader.new()
        self.events += new
        for event in new:
            if event.kind in ("finished", "diverged", "pruned") or (
                event.kind == "failed" and event.launch == self._launch
            ):
                self._ended[event.cell] = event

    def _state(self, cell: Cell, running: set[str]) -> CellState:
        if (known := self._settled.get(cell.cell_id)) is not None:
            return known
        name, event = f"cell-{cell.cell_id}", self._ended.get(cell.cell_id)
        if self._folder.has_record(cell) and (recorded := self._recorded(cell, event)) is not None:
            return self._settled.setdefault(cell.cell_id, recorded)
        if name in running and (holder := self._claims.holder(name)) is not None:
            return CellState(cell, "running", str(holder), progress=read_progress(self._folder.progress(cell)))
        if event is not None and event.kind in ("failed", "pruned"):
            return CellState(cell, "failed" if event.kind == "failed" else "pruned", event.message)
        return CellState(cell, "waiting")

    def _recorded(self, cell: Cell, event: Event | None) -> CellState | None:
        """A record is read only where no event tells of it; None if it cannot be."""
        if event is not None and event.kind in ("finished", "diverged"):
            return CellState(cell, "diverged" if event.kind == "diverged" else "finished", seconds=event.seconds)
        record = self._folder.store.load(cell.cell_id, cell.table)
        if record is None:
            return None
        status: Status = "finished" if record.status == "finished" else "diverged"
        return CellState(cell, status, record.message, record.provenance.get("wall_seconds"))
