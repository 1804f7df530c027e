"""Processes: which one a claim belongs to, whether it still lives, where it may compute, and how a worker ends."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

DISK_FULL, LOST_CLAIM, INTERRUPTED = 3, 4, 130
"""Exit codes of a worker that did not come to the end: no space left; another process took its claim, since it was
silent for too long; stopped."""

MOST_DEATHS = 10
"""Workers that may be killed one after another without anything having happened in the sweep."""


def was_killed(code: int) -> bool:
    """Whether a worker that ended with ``code`` may be started again: a signal ended it (from outside, or of the kernel
    that ran out of memory), or it lost a claim."""
    return code < 0 or code == LOST_CLAIM


@dataclass(frozen=True)
class Process:
    """A process that is never mistaken for a later one of the same number."""

    host: str
    machine: str
    """This start of this machine, and the space in which process numbers count (a container has its own)."""
    pid: int
    started: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


NOBODY = Process("an unknown host", "", 0, "")


@cache
def _this_process(pid: int) -> Process:
    return Process(platform.node(), _machine(), pid, _start_of(pid) or "")


def this_process() -> Process:
    return _this_process(os.getpid())


def is_alive(process: Process) -> bool | None:
    """Whether ``process`` runs; None for one of another machine, of which nothing is known from here."""
    if process.machine != _machine():
        return None
    return _start_of(process.pid) == process.started


@cache
def _machine() -> str:
    boot = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with suppress(OSError):
        boot += " " + os.readlink("/proc/self/ns/pid")
    return boot or platform.node()


def _start_of(pid: int) -> str | None:
    """When a process started, in ticks since the machine did: no change of the clock moves it. None if it is gone."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else fields[18]
    except (OSError, ValueError, IndexError):
        return None if Path("/proc/self/stat").exists() else _start_elsewhere(pid)


def _start_elsewhere(pid: int) -> str | None:
    import psutil

    try:
        return str(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def pin(cores: Sequence[int]) -> None:
    """Keep this process to ``cores``, so that workers do not fight over one; without any, or such a call, anywhere."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
