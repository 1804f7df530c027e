"""Mean, spread, and when two figures may be called different."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """Repeated measurements of one figure."""

    mean: float
    std: float | None
    """Sample standard deviation (n - 1 in the denominator); None for a single measurement: its spread is not known."""
    n: int


def summarize(values: Iterable[float]) -> Summary:
    """Mean and sample standard deviation. Raises ``ValueError`` for no values, NaN or infinity."""
    listed = [float(value) for value in values]
    if not listed or not all(map(math.isfinite, listed)):
        raise ValueError(f"a mean needs finite values, got {listed}")
    std = statistics.stdev(listed) if len(listed) > 1 else None
    return Summary(statistics.fmean(listed), std, len(listed))


def differs(a: Summary, b: Summary) -> bool:
    """Whether ``|mean_a - mean_b| > std_a + std_b``: the means lie further apart than both deviations together.

    The bands that a table prints as ``mean ± std`` then do not touch. It is a rule for the eye, stricter than a
    comparison with one standard deviation and no test of significance: two or three seeds allow none. False where
    either spread is unknown.
    """
    return a.std is not None and b.std is not None and abs(a.mean - b.mean) > a.std + b.std
