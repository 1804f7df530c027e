"""How many workers a machine takes, and which cores, threads and GPU each of them gets."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass

from qexp.conf.errors import UserError
from qexp.conf.sweeps import LauncherConfig

GIB = 2**30
UNKNOWN_MEMORY = 2.0
"""GiB of a worker of which no record tells: torch, transformers and a network of this project's sizes."""


@dataclass(frozen=True)
class Machine:
    cores: tuple[int, ...]
    """Those that this process may use."""
    memory: float
    """GiB that are free."""
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True)
class Slot:
    """The share of the machine of one worker. No ``cores``: it may run on any."""

    number: int
    threads: int
    cores: tuple[int, ...] = ()
    gpu: str | None = None


def this_machine() -> Machine:
    import psutil

    affinity = getattr(os, "sched_getaffinity", None)
    cores = sorted(affinity(0)) if affinity else range(os.cpu_count() or 1)
    return Machine(tuple(cores), psutil.virtual_memory().available / GIB, _gpus())


def _gpus() -> tuple[str, ...]:
    """Of the environment where it chooses, else all that the driver lists; asked without torch."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return tuple(part for part in chosen.split(",") if part.strip())
    if shutil.which("nvidia-smi") is None:
        return ()
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return tuple(str(number) for number, line in enumerate(listed.splitlines()) if line.startswith("GPU"))


def share_out(launcher: LauncherConfig, cells: int, machine: Machine, memory: float | None, on_gpu: bool) -> list[Slot]:
    """A slot for each worker: ``cells`` are to do, each needs ``memory`` [GiB], if known, and, ``on_gpu``, a GPU.

    Workers are pinned to cores of their own only where together they fill the machine: else two sweeps on one machine
    would sit on the same cores and leave others idle.

    Raises:
        UserError: for more workers than the memory holds.
    """
    need = launcher.memory or memory or UNKNOWN_MEMORY
    fit = max(1, int(machine.memory / need))
    workers = launcher.workers or _workers(launcher, cells, machine, fit, on_gpu)
    if workers > fit:
        raise UserError(
            f"launcher.workers={workers} would need {workers * need:.1f} GiB at {need:.1f} GiB a worker, and "
            f"{machine.memory:.1f} GiB are free: at most {fit}, or say with launcher.memory=GIB what one really needs"
        )
    threads = launcher.threads or max(1, len(machine.cores) // workers)
    pinned = workers * threads == len(machine.cores)
    return [
        Slot(
            number,
            threads,
            machine.cores[number * threads : (number + 1) * threads] if pinned else (),
            machine.gpus[number % len(machine.gpus)] if on_gpu and machine.gpus else None,
        )
        for number in range(workers)
    ]


def _workers(launcher: LauncherConfig, cells: int, machine: Machine, fit: int, on_gpu: bool) -> int:
    most = len(machine.gpus) if on_gpu and machine.gpus else len(machine.cores) // (launcher.threads or 1)
    return max(1, min(cells, most, fit))
