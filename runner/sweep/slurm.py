"""``launcher=slurm``: an array job whose tasks are workers over the sweep's folder on the shared file system."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from qexp.conf.errors import RunError, UserError
from qexp.conf.sweeps import SlurmConfig
from qexp.runner.sweep.events import EventReader
from qexp.runner.sweep.folder import SweepFolder
from qexp.runner.sweep.local import environment, worker_command
from qexp.runner.sweep.processes import INTERRUPTED, MOST_DEATHS, was_killed
from qexp.runner.sweep.sizing import Slot

SECONDS_BETWEEN_ASKING = 2.0
"""``squeue`` is a load on the cluster's controller: it is not asked at every look at the folder."""
ANSWER_SECONDS = 30.0
INSTALL = "pip install 'qexp[slurm]'"


class WorkerJob:
    """What a task of the array calls: one worker as a child, which is started again when it is killed, and which a
    time-out or preemption lets checkpoint.

    ``events``: folder of the sweep's events. ``failure``: the file that is written where the worker failed, since a
    cluster without accounting forgets it.
    """

    def __init__(self, command: list[str], slot: Slot, events: Path, failure: Path):
        self._command, self._slot, self._events, self._failure = command, slot, events, failure
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        reader, deaths = EventReader(self._events), 0
        while was_killed(code := self._work()) and deaths < MOST_DEATHS:
            deaths = 0 if reader.new() else deaths + 1
        if code not in (0, INTERRUPTED):
            self._failure.write_text(f"a worker ended with exit code {code}", encoding="utf-8")
        return code

    def _work(self) -> int:
        """Slurm sends its warning to every process of the task; the worker leaves it to this one."""
        self._process = subprocess.Popen(self._command, env=environment(self._slot), preexec_fn=_ignore_warning)
        return self._process.wait()

    def checkpoint(self) -> Any:
        """Called by submitit before Slurm ends the task: the worker checkpoints, and the task is queued again.

        It is called by a signal's handler in the midst of ``wait``, whose lock a second ``wait`` would never get.
        """
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            self._process.terminate()
            with suppress(ChildProcessError):
                os.waitpid(self._process.pid, 0)
        return DelayedSubmission(WorkerJob(self._command, self._slot, self._events, self._failure))


def _ignore_warning() -> None:
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


class SlurmPool:
    """The array job of one launch."""

    def __init__(self, folder: SweepFolder, launch: int, config: SlurmConfig, slots: list[Slot]):
        self._folder, self._launch, self._config, self._slots = folder, launch, config, slots
        self._jobs: list[Any] = []
        self._asked, self._alive, self._stopping = 0.0, True, False

    def start(self) -> None:
        """Submit the array. Raises ``UserError`` where the cluster does not take it."""
        from submitit.core.utils import FailedJobError

        folder = self._folder
        jobs = [
            WorkerJob(worker_command(folder, self._launch, slot), slot, folder.events.resolve(), self._failure(slot))
            for slot in self._slots
        ]
        try:
            self._jobs = self._submit(jobs)
        except FailedJobError as error:
            raise UserError(f"Slurm did not take the job: {str(error).strip().splitlines()[-1]}") from None

    def _submit(self, jobs: list[WorkerJob]) -> list[Any]:
        executor = self._executor()
        with executor.batch():
            return [executor.submit(job) for job in jobs]

    def _executor(self) -> Any:
        import submitit

        executor = submitit.SlurmExecutor(folder=self._output, max_num_timeout=1000)
        config = self._config
        executor.update_parameters(
            job_name=f"qexp-{self._folder.plan.sweep_id[:8]}",
            time=config.time,
            cpus_per_task=config.cpus,
            mem=f"{int(config.memory * 1024)}M",
            array_parallelism=config.workers,
            **({"partition": config.partition} if config.partition else {}),
            **({"gpus_per_node": config.gpus} if config.gpus else {}),
            additional_parameters=dict(config.extra),
        )
        return executor

    def poll(self, news: bool) -> bool:
        """Whether a task is queued or runs. Raises ``RunError`` where one has failed."""
        if time.monotonic() - self._asked >= SECONDS_BETWEEN_ASKING:
            self._asked, self._alive = time.monotonic(), self._queued()
        for slot in () if self._stopping else self._slots:
            if self._failure(slot).exists():
                told = self._failure(slot).read_text(encoding="utf-8")
                raise RunError(f"{told}; the task's output lies in {self._output}")
        return self._alive

    def _queued(self) -> bool:
        """What ``squeue`` says; a controller that does not answer just now has not ended the job."""
        if not self._jobs:
            return False
        asked = _ask("squeue", "-h", "-j", self._array)
        return bool(asked.stdout.strip()) if asked.returncode == 0 else "Invalid job id" not in asked.stderr

    @property
    def _array(self) -> str:
        return str(self._jobs[0].job_id).split("_")[0]

    def stop(self) -> None:
        """Slurm sends SIGTERM to the workers, which checkpoint within its ``KillWait``."""
        self._stopping = True
        if self._jobs and self._alive:
            _ask("scancel", self._array)

    def kill(self) -> None:
        """End every task that is left now."""
        self._stopping = True
        if self._jobs and self._alive:
            _ask("scancel", "--full", "--signal=KILL", self._array)

    def _failure(self, slot: Slot) -> Path:
        return self._output / f"{self._launch}-{slot.number}.failure"

    @property
    def _output(self) -> Path:
        return self._folder.path / "workers"


def check_cluster() -> None:
    """Raises ``UserError`` where submitit or the cluster is missing."""
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise UserError(f"launcher=slurm needs submitit: {INSTALL}") from None
    if shutil.which("sbatch") is None:
        raise UserError("launcher=slurm: no sbatch on this machine; start the sweep on a login node of the cluster")
    asked = _ask("sinfo", "-h")
    if asked.returncode:
        raise UserError(
            f"launcher=slurm: the cluster does not answer: {(asked.stderr.strip() or 'sinfo failed').splitlines()[-1]}"
        )


def _ask(*command: str) -> subprocess.CompletedProcess[str]:
    """A command of Slurm; one that hangs counts as one that failed."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"{command[0]} did not answer in {ANSWER_SECONDS:.0f} s")
