"""``launcher=local``: worker processes on this machine."""

from __future__ import annotations

import os
import subprocess
import sys

from qexp.runner.sweep.folder import SweepFolder
from qexp.runner.sweep.pool import WorkerPool
from qexp.runner.sweep.sizing import Slot


class LocalPool(WorkerPool["subprocess.Popen[bytes]"]):
    """One worker process for each slot."""

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


def worker_command(folder: SweepFolder, launch: int, slot: Slot, parent: int | None = None) -> list[str]:
    """The command of one worker: whatever launcher starts it."""
    command = [sys.executable, "-m", "qexp.runner.sweep", str(folder.path.resolve()), str(launch)]
    command += ["--threads", str(slot.threads)]
    command += ["--cores", *map(str, slot.cores)] if slot.cores else []
    return [*command, "--parent", str(parent)] if parent is not None else command


def environment(slot: Slot) -> dict[str, str]:
    """This process's, with the worker's threads and GPUs for libraries that ask it only once."""
    threads = {name: str(slot.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    gpus = {"CUDA_VISIBLE_DEVICES": ",".join(slot.gpus)} if slot.gpus else {}
    return {**os.environ, **threads, **gpus}
