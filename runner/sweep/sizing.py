"""How many workers a machine takes, and which cores, threads and GPUs each of them gets."""

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
    gpus: tuple[str, ...] = ()


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


def share_out(
    launcher: LauncherConfig, cells: int, machine: Machine, memory: float | None, on_gpu: bool, devices: int = 1
) -> list[Slot]:
    """A slot for each worker: ``cells`` are to do, each needs ``memory`` [GiB], if known, and, ``on_gpu``, ``devices``
    GPUs (otherwise so many processes).

    Workers are pinned to cores of their own only where together they fill the machine: else two sweeps on one machine
    would sit on the same cores and leave others idle.

    Raises:
        UserError: for more workers than the memory holds, and more devices than the machine has.
    """
    need = launcher.memory or memory or UNKNOWN_MEMORY * devices
    fit = max(1, int(machine.memory / need))
    groups = _groups(machine.gpus, devices) if on_gpu else []
    workers = launcher.workers or _workers(launcher, cells, machine, fit, len(groups))
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
            groups[number % len(groups)] if groups else (),
        )
        for number in range(workers)
    ]


def _groups(gpus: tuple[str, ...], devices: int) -> list[tuple[str, ...]]:
    """The GPUs in groups of ``devices``; none where the machine has no GPU."""
    if gpus and devices > len(gpus):
        raise UserError(f"train.devices={devices}: this machine has {len(gpus)} GPUs for a worker")
    return [gpus[first : first + devices] for first in range(0, len(gpus) - devices + 1, devices)]


def _workers(launcher: LauncherConfig, cells: int, machine: Machine, fit: int, groups: int) -> int:
    most = groups or len(machine.cores) // (launcher.threads or 1)
    return max(1, min(cells, most, fit))
