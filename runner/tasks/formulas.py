"""The metrics of classification and regression as plain functions of predictions and references."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[Any]


@dataclass(frozen=True)
class Formula:
    """``compute(predictions [N], references [N])``; every metric here is better when higher."""

    compute: Callable[[Values, Values], float]
    definition: str


def accuracy(predictions: Values, references: Values) -> float:
    return float(np.mean(predictions == references))


def f1(predictions: Values, references: Values) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(references, predictions, zero_division=0))


def matthews_correlation(predictions: Values, references: Values) -> float:
    from sklearn.metrics import matthews_corrcoef

    return 0.0 if _constant(predictions, references) else float(matthews_corrcoef(references, predictions))


def pearson(predictions: Values, references: Values) -> float:
    from scipy.stats import pearsonr

    return 0.0 if _constant(predictions, references) else float(pearsonr(predictions, references).statistic)


def spearmanr(predictions: Values, references: Values) -> float:
    from scipy import stats

    return 0.0 if _constant(predictions, references) else float(stats.spearmanr(predictions, references).statistic)


def _constant(*series: Values) -> bool:
    return any(bool(np.all(values == values[0])) for values in series)


_ZERO = "0 where the predictions do not vary"
FORMULAS: dict[str, Formula] = {
    "accuracy": Formula(accuracy, "share of examples whose largest logit is the label's"),
    "f1": Formula(f1, "2PR/(P+R) of class 1, 0 where it is never predicted"),
    "matthews_correlation": Formula(matthews_correlation, f"Matthews correlation of predicted and true class, {_ZERO}"),
    "pearson": Formula(pearson, f"Pearson correlation of prediction and score, {_ZERO}"),
    "spearmanr": Formula(spearmanr, f"Spearman rank correlation of prediction and score, {_ZERO}"),
}
