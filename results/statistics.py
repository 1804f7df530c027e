"""Mean, spread, and tests over seeds of whether two figures differ."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

LEVEL = 0.05
RESAMPLES = 9999
"""Permutations that are drawn where there are more; fewer are all gone through, so that p is exact."""


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


def interval(found: Summary) -> tuple[float, float]:
    """The 95 % interval of the mean by Student's t; the mean itself where the differences have no variance."""
    from scipy.special import stdtrit

    half = float(stdtrit(found.n - 1, 1 - LEVEL / 2)) * _standard_error(found)
    return found.mean - half, found.mean + half


def p_at(found: Summary, bound: float) -> float:
    """Two-sided p of the mean lying at ``bound``, by Student's t; without variance 2^(1 - n), the sign test's."""
    from scipy.special import stdtr

    error = _standard_error(found)
    if error == 0:
        return float(2.0 ** (1 - found.n))
    return float(2 * stdtr(found.n - 1, -abs(found.mean - bound) / error))


def _standard_error(found: Summary) -> float:
    """Of the mean; differences that are alike but for rounding have none."""
    std = found.std or 0.0
    return 0.0 if std <= 1e-12 * max(1.0, abs(found.mean)) else std / math.sqrt(found.n)


def welch(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Two-sided p of equal means of two independent samples of any variances, by Welch's t test.

    1 for samples that are one constant. None where a sample has one value, or neither varies: no spread is known.
    """
    from scipy.stats import ttest_ind_from_stats

    if len({*a, *b}) == 1:
        return 1.0
    if min(len(a), len(b)) < 2 or len(set(a)) == len(set(b)) == 1:
        return None
    samples = ((one.mean, one.std or 0.0, one.n) for one in (summarize(a), summarize(b)))
    return float(ttest_ind_from_stats(*next(samples), *next(samples), equal_var=False).pvalue)


def sign_flips(differences: Sequence[float]) -> float:
    """Two-sided p of paired differences being symmetric around 0: their mean among those of all flips of signs."""
    return _permuted((differences,), "samples", lambda d, axis: d.mean(axis))


def splits(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p of two samples being of one distribution: the difference of means among those of all splits."""
    return _permuted((a, b), "independent", lambda x, y, axis: x.mean(axis) - y.mean(axis))


def _permuted(
    data: tuple[Sequence[float], ...], kind: Literal["samples", "independent"], statistic: Callable[..., Any]
) -> float:
    from scipy.stats import permutation_test

    found = permutation_test(
        data, statistic, permutation_type=kind, vectorized=True, n_resamples=RESAMPLES, axis=-1, rng=0
    )
    return float(found.pvalue)
