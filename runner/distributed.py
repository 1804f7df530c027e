"""One network trained by several processes of this machine, each with a GPU or a share of the CPU (``train.devices``).

Only training is shared out. Every process makes the same network and runs the same :func:`~qexp.runner.training.train`
under torch's DistributedDataParallel; rank 0 alone writes. The process that started them follows: it shows their
progress, tracks their figures, hands on the wish to stop, and ends all of them when one fails.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing

from qexp.conf.errors import RunError
from qexp.conf.schema import ExperimentConfig
from qexp.runner.devices import require_devices
from qexp.runner.progress import ProgressReporter
from qexp.runner.rank_process import End, Job, run_rank
from qexp.runner.relay import Call
from qexp.runner.stopping import StopRequest
from qexp.runner.stopwatch import Cost, Stopwatch
from qexp.runner.tracking import Tracker

START_METHOD = "spawn"
LOG_LEVEL = "TORCH_CPP_LOG_LEVEL"
SECONDS_BETWEEN_LOOKS = 0.5
"""At the wish to stop, while no process has anything to tell."""
SECONDS_TO_DIE = 2.0
DIED = (
    "a process of the training died: killed, or ended by the system when memory ran out; the same command goes on from "
    "the last checkpoint"
)


class TracebackElsewhere(Exception):
    """Where in another process an error was raised: the cause of that error here."""


def train_in_processes(
    cfg: ExperimentConfig,
    device: torch.device,
    resume_from: Path | None,
    progress: ProgressReporter,
    tracker: Tracker,
) -> None:
    """Train the network of ``cfg`` and keep it in its home.

    Raises:
        UserError: for more devices than there are, and whatever a process raises. RunError: if one of them died.
        KeyboardInterrupt: after SIGINT or SIGTERM, once a checkpoint is written.
    """
    require_devices(cfg)
    with tempfile.TemporaryDirectory(prefix="qexp-") as folder:
        job = Job(cfg, device.type, resume_from, tracker.validate_every, str(Path(folder) / "meeting"))
        progress.start(f"starting {cfg.train.devices} processes", None)  # until rank 0 is there, which ends the phase
        with _processes(job) as (running, ends):
            _follow(running, ends, progress, tracker)


@contextmanager
def _processes(job: Job) -> Iterator[tuple[Sequence[Any], list[Connection]]]:
    """The processes and the pipes that they report through. None of them outlives the block."""
    readers, writers = zip(*(Pipe(duplex=False) for _ in range(job.cfg.train.devices)), strict=True)
    with _quiet_start():
        context = multiprocessing.start_processes(  # type: ignore[attr-defined, no-untyped-call]
            run_rank, (job, writers), nprocs=len(writers), join=False, start_method=START_METHOD
        )
    for writer in writers:
        writer.close()
    try:
        yield context.processes, list(readers)
    finally:
        for process in context.processes:
            process.kill()
            process.join()
        for reader in readers:
            reader.close()


@contextmanager
def _quiet_start() -> Iterator[None]:
    """Processes that start meanwhile leave out warnings of torch's C++ code: one in every training tells that no
    parameter was left unused, as few methods leave any."""
    before = os.environ.get(LOG_LEVEL)
    os.environ.setdefault(LOG_LEVEL, "ERROR")
    try:
        yield
    finally:
        if before is None:
            del os.environ[LOG_LEVEL]


def _follow(running: Sequence[Any], ends: list[Connection], progress: ProgressReporter, tracker: Tracker) -> None:
    """Until all have ended, or one has failed."""
    stop, told = StopRequest(), False
    ended: list[End] = []
    with stop.listening():
        while ends and not any(isinstance(end.error, Exception) for end in ended):
            if stop.requested and not told:
                told = True
                _ask_to_stop(running)
            ready = wait(ends, SECONDS_BETWEEN_LOOKS)
            for end in [end for end in ends if end in ready]:
                message = _received(end)
                if isinstance(message, Call):
                    message.make(progress, tracker)
                    continue
                ends.remove(end)
                ended.append(message)
    Stopwatch.charge([end.cost for end in ended])
    _raise_what_stopped(ended, running, stop.requested)


def _ask_to_stop(running: Sequence[Any]) -> None:
    for process in running:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGINT)


def _raise_what_stopped(ended: Sequence[End], running: Sequence[Any], asked: bool) -> None:
    stopped = [end for end in ended if end.error is not None]
    if stopped and asked:
        raise KeyboardInterrupt
    if stopped and any(_was_killed(process) for process in running):
        raise RunError(DIED)  # perhaps its last messages are still unread
    if stopped:
        first = min(stopped, key=_doubt)
        assert first.error is not None
        raise first.error from TracebackElsewhere(first.trace)


def _was_killed(process: Any) -> bool:
    process.join(SECONDS_TO_DIE)  # its sockets, by which the others know, are closed before it is gone
    return (process.exitcode or 0) < 0


def _received(end: Connection) -> Any:
    try:
        return end.recv()
    except EOFError:
        return End(Cost(0.0, 0, 0), RunError(DIED))


def _doubt(end: End) -> int:
    """Where several fail, the lowest is the cause: what torch raises when it waits for another that is gone is not."""
    return isinstance(end.error, RuntimeError) + (type(end.error) is RuntimeError)
