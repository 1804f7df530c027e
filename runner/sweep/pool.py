"""Workers that are looked after one by one, and started again when they die: of this machine or of another."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from qexp.conf.errors import DiskFullError, RunError
from qexp.runner.sweep.folder import SweepFolder
from qexp.runner.sweep.processes import DISK_FULL, INTERRUPTED, LOST_CLAIM
from qexp.runner.sweep.sizing import Slot

MOST_DEATHS = 10
"""Workers that may be killed one after another without anything having happened in the sweep."""
KILL = signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM


class Running(Protocol):
    """A worker that was started, as ``subprocess.Popen`` shows it."""

    def poll(self) -> int | None: ...
    def send_signal(self, sig: int, /) -> None: ...
    def wait(self) -> object: ...


Worker = TypeVar("Worker", bound=Running)


class WorkerPool(Generic[Worker]):
    """One worker for each of ``slots``; a launcher says how one is started."""

    def __init__(self, folder: SweepFolder, launch: int, slots: Sequence[Slot]):
        self._folder, self._launch, self._slots = folder, launch, slots
        self._running: dict[Slot, Worker] = {}
        self._stopping = False
        self._none_left = False
        """A worker ended because no cell is left to run."""
        self._deaths = 0

    def _spawn(self, slot: Slot) -> Worker:
        raise NotImplementedError

    def start(self) -> None:
        for slot in self._slots:
            self._running[slot] = self._spawn(slot)

    def poll(self, news: bool) -> bool:
        """Look after the workers: one that was killed is started again. Whether any is left.

        ``news`` says that something happened in the sweep since the last call. Raises ``RunError`` where starting
        again is of no use: the disk is full, or workers end before they do anything.
        """
        self._deaths = 0 if news else self._deaths
        for slot, worker in list(self._running.items()):
            if (code := worker.poll()) is not None:
                del self._running[slot]
                self._none_left |= code == 0
                if code not in (0, INTERRUPTED) and not self._stopping:
                    self._check(slot, code)
                    self._running[slot] = self._spawn(slot)
        return bool(self._running)

    def stop(self) -> None:
        """Ask every worker to checkpoint and end."""
        self._stopping = True
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End every worker now."""
        self._stopping = True
        self._signal(KILL)
        for worker in self._running.values():
            worker.wait()

    def _signal(self, number: int) -> None:
        for worker in self._running.values():
            with suppress(ProcessLookupError):
                worker.send_signal(number)

    def _check(self, slot: Slot, code: int) -> None:
        if code == DISK_FULL:
            raise DiskFullError(
                f"no space left on the disk of {self._folder.store.root}; finished records are kept: make room, then "
                "qexp resume"
            )
        self._deaths += 1
        if (code > 0 and code != LOST_CLAIM) or self._deaths > MOST_DEATHS:
            raise RunError(f"a worker ended with exit code {code}: {_last_line(self._output(slot))}")

    def _output(self, slot: Slot) -> Path:
        """What the worker says outside of cells."""
        return self._folder.path / "workers" / f"{self._launch}-{slot.number}.log"


def _last_line(path: Path) -> str:
    with suppress(OSError, IndexError):
        return path.read_text(encoding="utf-8", errors="replace").split("\n# ")[-1].strip().splitlines()[-1]
    return "it said nothing"
