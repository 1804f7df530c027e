"""One network trained by several processes of this machine, each with a GPU or a share of the CPU (``train.devices``).

Only training is shared out. Every process makes the same network and runs the same :func:`~qexp.runner.training.train`
under torch's DistributedDataParallel; rank 0 alone writes. The process that started them follows: it shows their
progress, tracks their figures, hands on the wish to stop, and ends all of them when one fails.
"""

from __future__ import annotations

import os
import pickle
import signal
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing

from qexp.conf.errors import RunError
from qexp.conf.schema import ExperimentConfig
from qexp.runner.devices import backend_in_use, prepare_process, require_devices
from qexp.runner.progress import ProgressReporter, SilentProgress
from qexp.runner.relay import Call, RelayedProgress, RelayedTracker, send
from qexp.runner.stopping import StopRequest
from qexp.runner.stopwatch import Cost, Stopwatch
from qexp.runner.tracking import NullTracker, Tracker

START_METHOD = "spawn"
LOG_LEVEL = "TORCH_CPP_LOG_LEVEL"
SECONDS_BETWEEN_LOOKS = 0.5
"""At the wish to stop, while no process has anything to tell."""
SECONDS_TO_DIE = 2.0


DIED = (
    "a process of the training died: killed, or ended by the system when memory ran out; the same command goes on from "
    "the last checkpoint"
)


@dataclass(frozen=True)
class Job:
    """What every process gets."""

    cfg: ExperimentConfig
    device: str
    """Kind of device: ``cpu`` or ``cuda``."""
    resume_from: Path | None
    validate_every: int | None
    meeting: str
    """File at which the processes find each other."""


@dataclass(frozen=True)
class End:
    """The last message of a process: what it cost, and what stopped it."""

    cost: Cost
    error: BaseException | None = None
    trace: str = ""


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
            _run, (job, writers), nprocs=len(writers), join=False, start_method=START_METHOD
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


def _run(rank: int, job: Job, ends: Sequence[Connection]) -> None:
    """What a process does. SIGINT asks it for a checkpoint."""
    for other in {*ends} - {ends[rank]}:
        other.close()  # else the death of its process would not be seen
    error, trace = None, ""
    with StopRequest().listening() as stop, Stopwatch() as watch:
        if hasattr(os, "setsid"):
            os.setsid()  # Ctrl-C in a terminal reaches the process that follows, which hands it on
        try:
            _train(rank, job, ends[rank], stop)
        except (Exception, KeyboardInterrupt) as raised:
            error, trace = _sendable(raised), traceback.format_exc()
    send(ends[rank], End(watch.cost(), error, trace))


def _train(rank: int, job: Job, end: Connection, stop: StopRequest) -> None:
    from qexp.runner.preparation import prepare_task
    from qexp.runner.trained import keep, train_network
    from qexp.runner.training import StoppedElsewhere

    progress: ProgressReporter = RelayedProgress(end) if rank == 0 else SilentProgress()
    tracker: Tracker = RelayedTracker(end, job.validate_every) if rank == 0 else NullTracker()
    cfg = replace(job.cfg, threads=_threads(job.cfg))
    device = torch.device(job.device, rank) if job.device == "cuda" else torch.device("cpu")
    prepare_process(cfg.seed, cfg.threads)
    with suppress(StoppedElsewhere), _group(rank, job, cfg.threads), backend_in_use(cfg, device, progress.message):
        task, tokenizer = prepare_task(cfg, SilentProgress())
        progress.finish()
        trained = train_network(cfg, task, tokenizer, device, job.resume_from, progress, tracker, stop)
        if rank == 0:
            keep(trained, cfg, tokenizer)


@contextmanager
def _group(rank: int, job: Job, threads: int | None) -> Iterator[None]:
    """The processes joined; what accelerate reads of the environment says so too."""
    count = job.cfg.train.devices
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    os.environ |= {name: str(value) for name, value in place.items()}
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if job.device == "cuda":
        torch.cuda.set_device(rank)
    backend = "cpu:gloo,cuda:nccl" if job.device == "cuda" else "gloo"
    distributed.init_process_group(backend, init_method=f"file://{job.meeting}", rank=rank, world_size=count)
    yield
    distributed.destroy_process_group()


def _threads(cfg: ExperimentConfig) -> int:
    """A process's share of the experiment's threads."""
    return max(1, (cfg.threads or torch.get_num_threads()) // cfg.train.devices)


def _sendable(error: BaseException) -> BaseException:
    """The error, or one that says the same where it cannot be handed over."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an exception may refuse to be pickled in any way
        return RunError(f"{type(error).__name__}: {error}")
    return error
