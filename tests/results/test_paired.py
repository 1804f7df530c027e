"""Comparisons on the same examples: closed forms, identity, and how often chance alone is called a difference."""

from __future__ import annotations

from itertools import product
from math import comb

import numpy as np
import pytest
from sklearn.metrics import f1_score, matthews_corrcoef

from qexp.results.outcomes import Outcomes
from qexp.results.paired import SCORES, alike, bootstrap, lost_and_won, mcnemar

RANDOM = np.random.default_rng(0)


def classes(right: float, references: np.ndarray) -> Outcomes:
    values = np.where(RANDOM.random(len(references)) < right, references, 1 - references)
    return Outcomes("class", values, references, "e")


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (0, 5), (3, 9), (7, 7), (1, 0)])
def test_mcnemar_is_the_binomial_of_those_that_changed(lost: int, won: int) -> None:
    n = lost + won
    tail = sum(comb(n, k) for k in range(min(lost, won) + 1)) / 2**n
    assert mcnemar(lost, won) == pytest.approx(min(1.0, 2 * tail)) == mcnemar(won, lost)


def test_mcnemar_is_never_too_sure() -> None:
    """Of all outcomes of ten changed examples those with p <= 0.05 have a chance of at most 0.05."""
    chance = sum(comb(10, k) for k in range(11) if mcnemar(k, 10 - k) <= 0.05) / 2**10
    assert 0 < chance <= 0.05


def test_who_wins_where() -> None:
    references = np.array([1, 1, 0, 0])
    a, b = (Outcomes("class", np.array(values), references, "e") for values in ([1, 0, 0, 1], [0, 1, 0, 0]))
    assert lost_and_won(a, b) == (2, 1) and lost_and_won(b, a) == (1, 2)
    scores = [Outcomes("score", np.array(values), np.array([1.0, 2.0]), "e") for values in ([1.5, 2.0], [0.5, 3.0])]
    assert lost_and_won(*scores) == (0, 1), "by the size of the error"
    losses = [Outcomes("loss", np.array(values), np.array([9, 9]), "e") for values in ([30.0, 20.0], [20.0, 20.0])]
    assert lost_and_won(*losses) == (1, 0)


def test_the_same_predictions_never_differ() -> None:
    one = classes(0.8, RANDOM.integers(0, 2, 200))
    assert lost_and_won(one, one) == (0, 0) and mcnemar(0, 0) == 1.0
    for metric in ("accuracy", "f1", "matthews_correlation", "accuracy_mm"):
        found = bootstrap(metric, one, one)
        assert found is not None and (found.difference, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)
    assert bootstrap("spearmanr", one, one) is None


def test_scores_are_the_metrics() -> None:
    for values, references in product(([0, 1, 1, 0, 1], [1, 0, 1, 0, 1], [0, 0, 0, 0, 0]), ([1, 1, 0, 0, 1],)):
        pair = np.array(values), np.array(references)
        assert SCORES["accuracy"](*pair) == np.mean(pair[0] == pair[1])
        assert SCORES["f1"](*pair) == pytest.approx(f1_score(references, values, zero_division=0))
        assert SCORES["matthews_correlation"](*pair) == pytest.approx(matthews_corrcoef(references, values))
    x, y = RANDOM.normal(size=(2, 30))
    assert SCORES["pearson"](x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert SCORES["perplexity"](np.array([30.0, 10.0]), np.array([15, 5])) == -2.0


def test_the_interval_of_an_accuracy_is_the_normal_one_for_many_examples() -> None:
    references = RANDOM.integers(0, 2, 2000)
    a, b = classes(0.85, references), classes(0.80, references)
    each = (a.values == references).astype(float) - (b.values == references)
    half = 1.96 * each.std() / len(each) ** 0.5
    found = bootstrap("accuracy", a, b)
    assert found is not None and found.difference == pytest.approx(each.mean())
    assert (found.low, found.high) == pytest.approx((each.mean() - half, each.mean() + half), abs=0.15 * half)
    other = bootstrap("accuracy", b, a)
    assert other is not None and other.difference == -found.difference and found.p == pytest.approx(other.p, abs=0.002)
    assert bootstrap("accuracy", a, b) == found, "the same resamples every time"


def test_chance_alone_is_seldom_called_a_difference() -> None:
    """Windows of two networks that are equally good: 5 % of p-values below 0.05, here within four standard errors."""
    small = 0
    for _ in range(80):
        pair = [Outcomes("loss", RANDOM.normal(60, 9, 80), np.full(80, 15), "e") for _ in range(2)]
        found = bootstrap("perplexity", *pair)
        assert found is not None
        small += found.p < 0.05
    assert 0 < small / 80 < 0.05 + 4 * (0.05 * 0.95 / 80) ** 0.5


def test_unlike_examples_are_never_paired() -> None:
    one = classes(0.8, RANDOM.integers(0, 2, 20))
    assert alike(one, one) and not alike(one, Outcomes("class", one.values, one.references, "other"))


def test_answers_are_told_apart_by_their_f1_and_by_matching_exactly() -> None:
    right = np.full(4, 2.0)
    a, b = (
        Outcomes("answer", np.array(values), right, "e") for values in ([2.0, 0.5, 0.0, 1.0], [2.0, 0.25, 0.5, 2.0])
    )
    assert lost_and_won(a, b) == (2, 1)
    f1, exact = bootstrap("f1", a, b), bootstrap("exact_match", a, b)
    assert f1 is not None and f1.difference == pytest.approx(-0.25 / 4)
    assert exact is not None and exact.difference == pytest.approx(-1 / 4)
