"""A sweep while it runs: a live table on a terminal, elsewhere a line for whatever happens. On standard error."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from qexp.cli.progress import duration
from qexp.runner.sweep.events import Event
from qexp.runner.sweep.folder import SweepFolder
from qexp.runner.sweep.sizing import Slot
from qexp.runner.sweep.state import CellState, Snapshot

STYLES = {
    "finished": "green",
    "running": "cyan",
    "waiting": "dim",
    "failed": "red",
    "diverged": "red",
    "pruned": "yellow",
}
MOST_ROWS = 12
"""Running cells that are shown at once."""


class View(Protocol):
    def plan(self, snapshot: Snapshot, slots: Sequence[Slot]) -> None: ...
    def show(self, snapshot: Snapshot, events: list[Event]) -> None: ...
    def __enter__(self) -> View: ...
    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None: ...


def make_view(folder: SweepFolder, quiet: bool) -> View:
    """The view that suits standard error: none, a live table, or lines."""
    console = Console(stderr=True)
    if quiet:
        return SilentView()
    return LiveView(folder, console) if console.is_terminal else LineView(folder, console)


class SilentView:
    def plan(self, snapshot: Snapshot, slots: Sequence[Slot]) -> None:
        return None

    def show(self, snapshot: Snapshot, events: list[Event]) -> None:
        return None

    def __enter__(self) -> View:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        return None


class LineView(SilentView):
    """Lines for a log: one when a cell starts, ends or fails."""

    def __init__(self, folder: SweepFolder, console: Console):
        self._console = console
        self._name = folder.plan.sweep_id[:8]

    def plan(self, snapshot: Snapshot, slots: Sequence[Slot]) -> None:
        done = sum(state.settled for state in snapshot.cells)
        total, workers, threads = len(snapshot.cells), len(slots), slots[0].threads
        self._line(
            f"sweep {self._name}: {_many(total, 'cell')}, {done} done, {total - done} to do, "
            f"by {_many(workers, 'worker')} of {_many(threads, 'thread')}"
        )

    def show(self, snapshot: Snapshot, events: list[Event]) -> None:
        labels = {state.cell.cell_id: state.cell.label for state in snapshot.cells}
        for event in events:
            if event.cell and event.cell in labels:
                self._line(self._told(event, labels[event.cell], snapshot))

    def _told(self, event: Event, label: str, snapshot: Snapshot) -> str:
        took = f" in {duration(event.seconds)}" if event.seconds is not None else ""
        why = f": {event.message}" if event.message else ""
        done = sum(state.settled for state in snapshot.cells)
        left = f", {done} of {len(snapshot.cells)}{_left(snapshot)}" if event.kind in ("finished", "diverged") else ""
        return f"{event.kind} {label}{took}{why}{left}"

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class LiveView(LineView):
    """What runs now as a table that is drawn anew; what has ended stays above it as lines."""

    def __init__(self, folder: SweepFolder, console: Console):
        super().__init__(folder, console)
        self._live = Live(console=console, refresh_per_second=4, transient=True)

    def show(self, snapshot: Snapshot, events: list[Event]) -> None:
        super().show(snapshot, [event for event in events if event.kind != "started"])
        self._live.update(render(snapshot, self._name))

    def __enter__(self) -> View:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._live.stop()


def render(snapshot: Snapshot, name: str) -> RenderableType:
    """The counts of all cells, and a row for each that runs."""
    counts = Text(f"sweep {name}  ")
    for status, number in snapshot.counts().items():
        counts.append(f"{number} {status}  ", style=STYLES[status])
    counts.append(_left(snapshot).removeprefix(", "), style="dim")
    running = [state for state in snapshot.cells if state.status == "running"]
    return Group(counts, cells_table(running[:MOST_ROWS], headings=False))


def cells_table(states: Sequence[CellState], headings: bool = True) -> Table:
    """A row a cell: its status, id, label, and how far it is, what it took or why it failed."""
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=headings)
    for heading in ("status", "id", "cell", ""):
        grid.add_column(heading, overflow="fold")
    for state in states:
        style = STYLES[state.status]
        grid.add_row(Text(state.status, style), state.cell.cell_id[:8], Text(state.cell.label), Text(_how_far(state)))
    return grid


def _how_far(state: CellState) -> str:
    if (progress := state.progress) is not None:
        steps = f" {progress.done}/{progress.total}" if progress.total else ""
        return f"{progress.phase}{steps} {progress.note}".rstrip()
    if state.status == "running":
        return state.message
    return state.message or (duration(state.seconds) if state.seconds is not None else "")


def _left(snapshot: Snapshot) -> str:
    seconds = snapshot.seconds_left()
    return f", about {duration(seconds)} left" if seconds else ""


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
