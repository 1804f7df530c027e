"""Two networks on the same examples: who wins where, and how sure the difference of a metric is within one seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qexp.results.outcomes import Outcomes
from qexp.results.schema import ON, SECOND_SET

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[Any]
    Score = Callable[[Values, Values], Values]

RESAMPLES = 1999
LEVEL = 0.95
BATCH = 1_000_000
"""Examples that are resampled at once, which bounds the memory."""


@dataclass(frozen=True)
class Interval:
    """A metric's difference, positive where the first network is better, its 95 % interval and the p of none."""

    difference: float
    low: float
    high: float
    p: float


def alike(a: Outcomes, b: Outcomes) -> bool:
    """Whether both are about the same examples in the same order."""
    return (a.kind, a.examples, len(a.values)) == (b.kind, b.examples, len(b.values))


def lost_and_won(a: Outcomes, b: Outcomes) -> tuple[int, int]:
    """On how many examples ``a`` is worse and better than ``b``: right or wrong, or by the error or the loss."""
    worse, better = (_errors(one) for one in (a, b))
    return int((worse > better).sum()), int((worse < better).sum())


def _errors(one: Outcomes) -> Values:
    if one.kind == "loss":
        return one.values
    errors: Values = abs(one.values.astype(float) - one.references)
    return errors != 0 if one.kind == "class" else errors


def mcnemar(lost: int, won: int) -> float:
    """Exact two-sided p of examples being lost and won with the same chance, by the binomial of both (McNemar, 1947).

    1 where none is lost or won.
    """
    from scipy.stats import binomtest

    return float(binomtest(lost, lost + won).pvalue) if lost + won else 1.0


def bootstrap(metric: str, a: Outcomes, b: Outcomes) -> Interval | None:
    """The difference of a metric, ``a`` from ``b``, over resampled examples; None for a metric that is not known.

    Percentile interval of resamples drawn with one seed; p is the smallest level whose interval leaves out 0, at least
    2 / (resamples + 1). Of perplexity the logarithm is compared.
    """
    import numpy as np
    from scipy import stats

    score = (ANSWER_SCORES if a.kind == "answer" else SCORES).get(metric.partition(ON)[0].removesuffix(SECOND_SET))
    if score is None:
        return None
    size = len(a.values)

    def difference(chosen: Values, axis: int = -1) -> Values:
        return score(a.values[chosen], a.references[chosen]) - score(b.values[chosen], b.references[chosen])

    found = stats.bootstrap(
        (np.arange(size),),
        difference,
        n_resamples=RESAMPLES,
        batch=max(1, BATCH // size),
        vectorized=True,
        confidence_level=LEVEL,
        method="percentile",
        rng=0,
    )
    drawn = found.bootstrap_distribution
    beyond = 1 + min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    low, high = found.confidence_interval
    return Interval(float(difference(np.arange(size))), float(low), float(high), min(1.0, 2 * beyond / (RESAMPLES + 1)))


def _accuracy(values: Values, references: Values) -> Values:
    share: Values = (values == references).mean(-1)
    return share


def _f1(values: Values, references: Values) -> Values:
    both = ((values == 1) & (references == 1)).sum(-1)
    return _ratio(2 * both, (values == 1).sum(-1) + (references == 1).sum(-1))


def _correlation(values: Values, references: Values) -> Values:
    """Pearson's; of two classes it is the Matthews correlation."""
    x, y = (one - one.mean(-1, keepdims=True) for one in (values.astype(float), references.astype(float)))
    return _ratio((x * y).sum(-1), ((x * x).sum(-1) * (y * y).sum(-1)) ** 0.5)


def _less_loss(values: Values, references: Values) -> Values:
    """Mean log-likelihood of a token, in nats."""
    return -_ratio(values.astype(float).sum(-1), references.sum(-1))


def _ratio(over: Values, under: Values) -> Values:
    """0 where the denominator is, as the metrics define it."""
    import numpy as np

    return np.divide(over, under, out=np.zeros(np.shape(over)), where=np.asarray(under) > 0)


SCORES: dict[str, Score] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews_correlation": _correlation,
    "pearson": _correlation,
    "perplexity": _less_loss,
    "bits_per_character": lambda values, references: _less_loss(values, references) / math.log(2),
}
"""Metrics of values and references [..., N] along the last axis, higher where better. Perplexity is its logarithm.

A rank correlation is not among them: ranking anew for each resample takes seconds.
"""
ANSWER_SCORES: dict[str, Score] = {
    "f1": lambda values, _: values.clip(max=1.0).mean(-1),
    "exact_match": lambda values, references: (values == references).mean(-1),
}
"""The same of answers to questions."""
