"""Progress and tracking of a network that another process trains: its calls, sent over a pipe and made here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from qexp.runner.progress import ProgressReporter
from qexp.runner.tracking import NullTracker, Tracker

ORPHANED = 1


@dataclass(frozen=True)
class Call:
    """``receiver`` is ``progress`` or ``tracker``."""

    receiver: str
    name: str
    arguments: tuple[Any, ...]

    def make(self, progress: ProgressReporter, tracker: Tracker) -> None:
        getattr(progress if self.receiver == "progress" else tracker, self.name)(*self.arguments)


def send(end: Connection, message: object) -> None:
    """To the process that follows the training. Where that is gone this one ends at once, as it would have with it:
    the same training may be under way again, and nothing must be written into it."""
    try:
        end.send(message)
    except BrokenPipeError:
        os._exit(ORPHANED)


class RelayedProgress:
    """A reporter that is shown by the process at the other end."""

    def __init__(self, end: Connection):
        self._end = end

    def start(self, phase: str, total: int | None = None) -> None:
        self._send("start", phase, total)

    def advance(self, done: int, total: int | None = None, note: str = "") -> None:
        self._send("advance", done, total, note)

    def finish(self) -> None:
        self._send("finish")

    def message(self, text: str) -> None:
        self._send("message", text)

    def _send(self, name: str, *arguments: object) -> None:
        send(self._end, Call("progress", name, arguments))


class RelayedTracker(NullTracker):
    """Hands on the figures of training steps; the rest of a run is tracked at the other end."""

    def __init__(self, end: Connection, validate_every: int | None):
        self._end, self.validate_every = end, validate_every

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        send(self._end, Call("tracker", "log", (dict(metrics), step)))
