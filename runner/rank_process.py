"""One of the processes that train a network together: joined with the others, told what to do by a :class:`Job`."""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import distributed

from qexp.conf.errors import RunError
from qexp.conf.schema import ExperimentConfig
from qexp.runner.devices import backend_in_use, prepare_process
from qexp.runner.progress import ProgressReporter, SilentProgress
from qexp.runner.relay import RelayedProgress, RelayedTracker, send
from qexp.runner.stopping import StopRequest
from qexp.runner.stopwatch import Cost, Stopwatch
from qexp.runner.tracking import NullTracker, Tracker


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


def run_rank(rank: int, job: Job, ends: Sequence[Connection]) -> None:
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
