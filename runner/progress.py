"""How a run says how far it is. The runner talks to this protocol; the terminal's side is ``cli/progress.py``."""

from __future__ import annotations

from typing import Protocol


class ProgressReporter(Protocol):
    """One phase at a time: ``start``, any number of ``advance``, ``finish``. ``message`` may come at any moment."""

    def start(self, phase: str, total: int | None = None) -> None:
        """A phase begins: ``training``, ``evaluating w8a8``. ``total`` steps where they are known."""

    def advance(self, done: int, total: int | None = None, note: str = "") -> None:
        """``done`` steps are behind us, counted from the start of the phase; ``note`` is the latest figure."""

    def finish(self) -> None:
        """The phase is over. Does nothing when none is under way."""

    def message(self, text: str) -> None:
        """One line that the user should see."""


class SilentProgress:
    """Says nothing: for tests and for use as a library."""

    def start(self, phase: str, total: int | None = None) -> None:
        return None

    def advance(self, done: int, total: int | None = None, note: str = "") -> None:
        return None

    def finish(self) -> None:
        return None

    def message(self, text: str) -> None:
        return None
