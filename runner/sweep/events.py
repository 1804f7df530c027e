"""What happened in a sweep: an append-only log, one JSON object a line.

Every process writes a file of its own, so that no append can tear another's line, on whatever file system.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Event:
    """``kind`` is ``launched``, ``started``, ``finished``, ``diverged``, ``failed``, ``pruned`` (stopped by a search),
    ``stopped`` or ``lost`` (the process in the cell died). ``time`` is the writer's clock: to be read, never to be
    compared between machines."""

    time: str
    kind: str
    launch: int
    writer: str
    cell: str = ""
    message: str = ""
    seconds: float | None = None


class EventLog:
    """The log of one process, ``<folder>/<writer>.jsonl``."""

    def __init__(self, folder: Path, writer: str, launch: int):
        self._path, self._writer, self._launch = folder / f"{writer}.jsonl", writer, launch

    def append(self, kind: str, cell: str = "", **facts: Any) -> None:
        """Add one event. Raises ``OSError`` where it cannot be written.

        A line that a full disk cut short is ended by the next append, and readers pass over it.
        """
        time = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        event = {"time": time, "kind": kind, "launch": self._launch, "writer": self._writer, "cell": cell, **facts}
        line = json.dumps({key: value for key, value in event.items() if value not in ("", None)}, ensure_ascii=False)
        with self._path.open("ab", buffering=0) as file:
            start = b"\n" if self._is_torn() else b""
            file.write(start + line.encode() + b"\n")
            os.fsync(file.fileno())

    def _is_torn(self) -> bool:
        with self._path.open("rb") as file:
            if not file.seek(0, os.SEEK_END):
                return False
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"


class EventReader:
    """Reads the logs of all processes, and each time only what is new."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._read: dict[Path, int] = {}

    def new(self) -> list[Event]:
        """Events since the last call, ordered by time, those of one process as they came."""
        found = [event for path in sorted(self._folder.glob("*.jsonl")) for event in self._new_of(path)]
        return sorted(found, key=lambda event: event.time)

    def _new_of(self, path: Path) -> list[Event]:
        with path.open("rb") as file:
            file.seek(self._read.get(path, 0))
            whole, newline, _ = file.read().rpartition(b"\n")
        self._read[path] = self._read.get(path, 0) + len(whole) + len(newline)
        events = (_event(line) for line in whole.splitlines())
        return [event for event in events if event is not None]


def _event(line: bytes) -> Event | None:
    """None for a line that is no event: torn, or another version's."""
    try:
        data: Mapping[str, Any] = json.loads(line)
        return Event(**data)
    except (ValueError, TypeError):
        return None
