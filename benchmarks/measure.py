"""How every benchmark measures: candidates by turns in one run, and the ratio of each turn, so that a busy machine
slows both alike. Figures are medians with the quartiles of the turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """One line of docs/performance.md."""

    what: str
    figure: str
    spread: str
    baseline: str
    goal: str
    met: bool

    def __str__(self) -> str:
        return f"{self.what}: {self.figure} ({self.spread}); goal {self.goal}: {'met' if self.met else 'MISSED'}"


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


def quartiles(values: list[float]) -> tuple[float, float]:
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
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
