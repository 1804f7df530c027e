"""How every benchmark measures: candidates by turns in one run, and the ratio of each turn, so that a busy machine
slows both alike. Figures are medians with the quartiles of the turns."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

SHORTEST = 2e-3
"""A figure of :func:`timed` is taken over at least so many seconds of calls."""


@dataclass(frozen=True)
class Result:
    """One line of the goals in docs/performance.md."""

    what: str
    figure: str
    spread: str
    baseline: str
    goal: str
    met: bool

    def __str__(self) -> str:
        return f"{self.what}: {self.figure} ({self.spread}); goal {self.goal}: {'met' if self.met else 'MISSED'}"


@dataclass(frozen=True)
class Report:
    """What one benchmark found: lines with a goal, a section of tables (Markdown), and all figures for JSON."""

    results: list[Result]
    text: str = ""
    figures: Any = None


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def by_turns(candidates: Mapping[str, Callable[[], float]], turns: int, warmup: int = 1) -> dict[str, list[float]]:
    """Call every candidate once a turn; each returns its own figure. The order turns round from turn to turn."""
    figures: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(-warmup, turns):
        names = list(candidates) if turn % 2 else list(reversed(candidates))
        for name in names:
            figure = candidates[name]()
            if turn >= 0:
                figures[name].append(figure)
    return figures


@dataclass
class Timing:
    """Seconds of one call, turn by turn: of the wall clock, and of the CPU by all threads together."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def add(self, action: Callable[[], object], repeats: int) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(repeats):
            action()
        self.wall.append((time.perf_counter() - wall) / repeats)
        self.cpu.append((time.process_time() - cpu) / repeats)


def timed(candidates: Mapping[str, Callable[[], object]], turns: int, budget: float) -> dict[str, Timing]:
    """Time the candidates by turns. One that would take more than ``budget`` seconds for all gets fewer turns."""
    cost = {name: _cost(action, budget) for name, action in candidates.items()}
    last = {name: min(turns, max(1, int(budget / max(spent, SHORTEST)))) for name, spent in cost.items()}
    timings = {name: Timing() for name in candidates}
    for turn in range(turns):
        for name in list(candidates) if turn % 2 else list(reversed(candidates)):
            if turn < last[name]:
                timings[name].add(candidates[name], math.ceil(SHORTEST / cost[name]))
    return timings


def _cost(action: Callable[[], object], budget: float) -> float:
    """Seconds of a warm call; the first one, which packs and allocates, will do where it alone is beyond budget."""
    first = seconds(action)
    return first if first > budget else seconds(action)


def summary(timing: Timing, base: Timing) -> dict[str, Any]:
    """Quartiles of a candidate [ms], and of how many times faster than ``base`` it was in the same turns."""
    speed = [theirs / ours for ours, theirs in zip(timing.wall, base.wall, strict=False)]
    figures = {"wall_ms": [1e3 * t for t in timing.wall], "cpu_ms": [1e3 * t for t in timing.cpu], "speed": speed}
    found = {key: [float(f"{edge:.4g}") for edge in three(values)] for key, values in figures.items()}
    return {**found, "turns": len(timing.wall)}


def three(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    low, high = quartiles(values)
    return low, statistics.median(values), high


def quartiles(values: list[float]) -> tuple[float, float]:
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else (values[0],) * 3
    return low, high


def ratio(what: str, ours: list[float], theirs: list[float], baseline: str, limit: float) -> Result:
    """Median of the turns' ratios against ``limit``."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return _result(what, ratios, "{:.3f} x", baseline, limit)


def difference(what: str, ours: list[float], theirs: list[float], baseline: str, limit: float) -> Result:
    """Median of the turns' differences [s] against ``limit``."""
    return _result(what, [a - b for a, b in zip(ours, theirs, strict=True)], "{:+.3f} s", baseline, limit)


def absolute(what: str, values: list[float], baseline: str, limit: float) -> Result:
    """Median [s] against ``limit``."""
    return _result(what, values, "{:.3f} s", baseline, limit)


def _result(what: str, values: list[float], shape: str, baseline: str, limit: float) -> Result:
    middle = statistics.median(values)
    low, high = (shape.format(edge) for edge in quartiles(values))
    goal = "at most " + shape.format(limit)
    return Result(what, shape.format(middle), f"{low} … {high}, {len(values)} turns", baseline, goal, middle <= limit)
