"""``launcher=local``: worker processes on this machine, started again when they die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from qexp.conf.errors import DiskFullError, RunError
from qexp.runner.sweep.folder import SweepFolder
from qexp.runner.sweep.processes import DISK_FULL, INTERRUPTED, MOST_DEATHS, was_killed
from qexp.runner.sweep.sizing import Slot


class LocalPool:
    """One worker process for each of ``slots``."""

    def __init__(self, folder: SweepFolder, launch: int, slots: Sequence[Slot]):
        self._folder, self._launch, self._slots = folder, launch, slots
        self._running: dict[Slot, subprocess.Popen[bytes]] = {}
        self._stopping = False
        self._deaths = 0

    def start(self) -> None:
        for slot in self._slots:
            self._running[slot] = self._spawn(slot)

    def poll(self, news: bool) -> bool:
        """Look after the workers: one that was killed is started again. Whether any is left.

        ``news`` says that something happened in the sweep since the last call. Raises ``RunError`` where starting
        again is of no use: the disk is full, or workers end before they do anything.
        """
        self._deaths = 0 if news else self._deaths
        for slot, process in list(self._running.items()):
            if (code := process.poll()) is not None:
                del self._running[slot]
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
        self._signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
        for process in self._running.values():
            process.wait()

    def _signal(self, number: int) -> None:
        for process in self._running.values():
            with suppress(ProcessLookupError):
                process.send_signal(number)

    def _check(self, slot: Slot, code: int) -> None:
        if code == DISK_FULL:
            raise DiskFullError(
                f"no space left on the disk of {self._folder.store.root}; finished records are kept: make room, then "
                "qexp resume"
            )
        self._deaths += 1
        if not was_killed(code) or self._deaths > MOST_DEATHS:
            raise RunError(f"a worker ended with exit code {code}: {_last_line(self._output(slot))}")

    def _spawn(self, slot: Slot) -> subprocess.Popen[bytes]:
        """In a session of its own: Ctrl-C reaches the parent only, which asks its workers to checkpoint."""
        with self._output(slot).open("ab") as output:
            return subprocess.Popen(
                worker_command(self._folder, self._launch, slot, os.getpid()),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment(slot),
                start_new_session=True,
            )

    def _output(self, slot: Slot) -> Path:
        return self._folder.path / "workers" / f"{self._launch}-{slot.number}.log"


def worker_command(folder: SweepFolder, launch: int, slot: Slot, parent: int | None = None) -> list[str]:
    """The command of one worker: whatever launcher starts it."""
    command = [sys.executable, "-m", "qexp.runner.sweep", str(folder.path.resolve()), str(launch)]
    command += ["--threads", str(slot.threads)]
    command += ["--cores", *map(str, slot.cores)] if slot.cores else []
    return [*command, "--parent", str(parent)] if parent is not None else command


def environment(slot: Slot) -> dict[str, str]:
    """This process's, with the worker's threads and GPU for libraries that ask it only once."""
    threads = {name: str(slot.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    gpu = {"CUDA_VISIBLE_DEVICES": slot.gpu} if slot.gpu is not None else {}
    return {**os.environ, **threads, **gpu}


def _last_line(path: Path) -> str:
    with suppress(OSError, IndexError):
        return path.read_text(encoding="utf-8", errors="replace").split("\n# ")[-1].strip().splitlines()[-1]
    return "it said nothing"
