"""How far a cell is: lines for its log, and a small file that ``qexp status`` reads from any terminal."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

SECONDS_BETWEEN_FILES = 1.0


@dataclass(frozen=True)
class Progress:
    phase: str
    done: int = 0
    total: int | None = None
    note: str = ""


class CellProgress:
    """A ``ProgressReporter`` that prints when phases begin and end, and keeps the file ``path`` up to date."""

    def __init__(self, path: Path):
        self._path = path
        self._phase = ""
        self._total: int | None = None
        self._began = self._written = 0.0

    def start(self, phase: str, total: int | None = None) -> None:
        self.finish()
        self._phase, self._total, self._began = phase, total, time.monotonic()
        print(f"{phase}{f': {total} steps' if total else ''}", flush=True)
        self._write(Progress(phase, 0, total))

    def advance(self, done: int, total: int | None = None, note: str = "") -> None:
        self._total = total or self._total
        if time.monotonic() - self._written >= SECONDS_BETWEEN_FILES:
            self._write(Progress(self._phase, done, self._total, note))

    def finish(self) -> None:
        if self._phase:
            print(f"{self._phase}: done in {time.monotonic() - self._began:.1f} s", flush=True)
            self._phase = ""

    def message(self, text: str) -> None:
        print(text, flush=True)

    def _write(self, progress: Progress) -> None:
        """Whole or not at all; a disk that takes no more of this is no reason to stop."""
        self._written = time.monotonic()
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        with suppress(OSError):
            temporary.write_text(json.dumps(asdict(progress)), encoding="utf-8")
            os.replace(temporary, self._path)


def read_progress(path: Path) -> Progress | None:
    try:
        return Progress(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
