"""Progress on a terminal: a bar with the time left; elsewhere a line now and then. Always on standard error."""

from __future__ import annotations

import time

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from qexp.runner.progress import ProgressReporter, SilentProgress

SECONDS_BETWEEN_LINES = 15.0


def make_progress(console: Console, quiet: bool) -> ProgressReporter:
    """The reporter that suits ``console``: none, a bar, or plain lines."""
    if quiet:
        return SilentProgress()
    return BarProgress(console) if console.is_terminal else LineProgress(console)


class BarProgress:
    """A rich bar for the phase under way; a finished phase leaves one line behind."""

    def __init__(self, console: Console):
        self._console = console
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._phase, self._note, self._began = "", "", 0.0

    def start(self, phase: str, total: int | None = None) -> None:
        self.finish()
        self._phase, self._note, self._began = phase, "", time.monotonic()
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<22}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}", markup=False),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task(phase, total=total, note="")
        self._bar.start()

    def advance(self, done: int, total: int | None = None, note: str = "") -> None:
        if self._bar is not None:
            self._note = note or self._note
            self._bar.update(self._task, completed=done, total=total, note=self._note)

    def finish(self) -> None:
        if self._bar is None:
            return
        self._bar.stop()
        self._bar = None
        self._console.print(f"[green]✓[/] {escape(self._phase)} [dim]{duration(time.monotonic() - self._began)}[/]")

    def message(self, text: str) -> None:
        self._console.print(text, style="yellow", markup=False)


class LineProgress:
    """Lines for a log: one when a phase begins, one every quarter of a minute, one when it ends."""

    def __init__(self, console: Console):
        self._console = console
        self._phase = ""
        self._began = self._last = 0.0
        self._total: int | None = None

    def start(self, phase: str, total: int | None = None) -> None:
        self.finish()
        self._phase, self._total = phase, total
        self._began = self._last = time.monotonic()
        self._line(phase + (f": {total} steps" if total else ""))

    def advance(self, done: int, total: int | None = None, note: str = "") -> None:
        now, self._total = time.monotonic(), total or self._total
        if self._phase and now - self._last >= SECONDS_BETWEEN_LINES and done:
            self._last = now
            left = f", {duration((now - self._began) / done * (self._total - done))} left" if self._total else ""
            self._line(f"{self._phase}: {done}{f'/{self._total}' if self._total else ''}{left} {note}".rstrip())

    def finish(self) -> None:
        if self._phase:
            self._line(f"{self._phase}: done in {duration(time.monotonic() - self._began)}")
            self._phase = ""

    def message(self, text: str) -> None:
        self._line(text)

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """``3 s``, ``2 min 05 s``, ``1 h 02 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s" if whole else f"{seconds:.1f} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
