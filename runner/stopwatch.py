"""What a run costs: wall time, CPU time and peak memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cost:
    """CPU time [s] and peak memory [bytes] of a process that has ended."""

    cpu: float
    memory: int
    gpu_memory: int


class Stopwatch:
    """Context that measures wall time, CPU time of all threads [s] and peak memory [bytes] of what runs inside.

    Peak memory is the process's highest resident size inside the context where the kernel lets it be reset (Linux),
    else the highest so far. Stopwatches may be nested in one thread.
    """

    _running: list[Stopwatch] = []

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0
        self.peak_memory = self.peak_gpu_memory = 0
        self._charged: list[Cost] = []

    def __enter__(self) -> Stopwatch:
        for outer in self._running:
            outer._note_peaks()
        self._running.append(self)
        _reset_peaks()
        self._started = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *exception: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self._started[0], time.process_time() - self._started[1]
        for watch in self._running:
            watch._note_peaks()
        self._running.remove(self)
        self.cpu += sum(cost.cpu for cost in self._charged)
        self.peak_memory += max((cost.memory for cost in self._charged), default=0)
        self.peak_gpu_memory = max([self.peak_gpu_memory, *(cost.gpu_memory for cost in self._charged)])

    @classmethod
    def charge(cls, costs: Sequence[Cost]) -> None:
        """Add what processes cost that worked for this one at once: their memory to the peak, which all had together.
        Of GPU memory the largest counts, which is what a device must have."""
        cpu, memory = sum(cost.cpu for cost in costs), sum(cost.memory for cost in costs)
        for watch in cls._running:
            watch._charged.append(Cost(cpu, memory, max((cost.gpu_memory for cost in costs), default=0)))

    def _note_peaks(self) -> None:
        self.peak_memory = max(self.peak_memory, _peak_memory())
        self.peak_gpu_memory = max(self.peak_gpu_memory, _peak_gpu_memory())

    def cost(self) -> Cost:
        """Of this process, for the one that it worked for."""
        return Cost(self.cpu, self.peak_memory, self.peak_gpu_memory)

    def facts(self) -> dict[str, float]:
        """The figures under the names that a record's provenance has."""
        figures = {"wall_seconds": round(self.wall, 3), "cpu_seconds": round(self.cpu, 3)}
        figures["peak_memory_bytes"] = self.peak_memory
        return figures | ({"peak_gpu_memory_bytes": self.peak_gpu_memory} if self.peak_gpu_memory else {})


def _reset_peaks() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # no such file or no right to it: the peak is then the process's highest so far
    if (torch := sys.modules.get("torch")) and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def _peak_memory() -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return _lifetime_peak_memory()


def _lifetime_peak_memory() -> int:
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _peak_gpu_memory() -> int:
    torch = sys.modules.get("torch")
    return int(torch.cuda.max_memory_allocated()) if torch and torch.cuda.is_initialized() else 0
