"""GLUE's official metrics beside the same formulas written out by hand."""

from __future__ import annotations

import math
from typing import Any

import evaluate
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qexp.runner.tasks.formulas import FORMULAS
from qexp.runner.tasks.glue import GLUE
from qexp.runner.tasks.glue_metric import GlueMetric, compute

pairs = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=30)
scores = st.lists(
    st.tuples(st.integers(-50, 50).map(lambda i: i / 10), st.integers(0, 50).map(lambda i: i / 10)),
    min_size=2,
    max_size=30,
)


def counts(predictions: list[int], references: list[int]) -> tuple[int, int, int, int]:
    both = list(zip(predictions, references, strict=True))
    return both.count((1, 1)), both.count((1, 0)), both.count((0, 1)), both.count((0, 0))


def by_hand(name: str, predictions: list[Any], references: list[Any]) -> float:
    tp, fp, fn, tn = counts(predictions, references)
    n = len(references)
    if name == "accuracy":
        return (tp + tn) / n
    if name == "f1":
        return 2 * tp / (2 * tp + fp + fn) if tp else 0.0
    if name == "matthews_correlation":
        below = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
        return (tp * tn - fp * fn) / below if below else 0.0
    if name == "spearmanr":
        return by_hand("pearson", ranks(predictions), ranks(references))
    x, y = [v - sum(predictions) / n for v in predictions], [v - sum(references) / n for v in references]
    below = math.sqrt(sum(v * v for v in x) * sum(v * v for v in y))
    return sum(a * b for a, b in zip(x, y, strict=True)) / below if below > 1e-12 else 0.0


def ranks(values: list[float]) -> list[float]:
    """1 for the smallest; equal values share the mean of their ranks."""
    return [sum(v < value for v in values) + (sum(v == value for v in values) + 1) / 2 for value in values]


@pytest.mark.parametrize("name", ["accuracy", "f1", "matthews_correlation"])
@given(both=pairs)
def test_class_metrics_are_the_formulas(name: str, both: list[tuple[int, int]]) -> None:
    predictions, references = ([pair[i] for pair in both] for i in (0, 1))
    found = FORMULAS[name].compute(np.array(predictions), np.array(references))
    assert found == pytest.approx(by_hand(name, predictions, references), abs=1e-12)


@pytest.mark.parametrize("name", ["pearson", "spearmanr"])
@given(both=scores)
def test_correlations_are_the_formulas(name: str, both: list[tuple[float, float]]) -> None:
    predictions, references = ([pair[i] for pair in both] for i in (0, 1))
    found = FORMULAS[name].compute(np.array(predictions), np.array(references))
    assert found == pytest.approx(by_hand(name, predictions, references), abs=1e-9)


def test_there_are_the_nine_tasks_with_their_metrics() -> None:
    expected = {
        "cola": {"matthews_correlation"},
        "stsb": {"pearson", "spearmanr"},
        "mrpc": {"accuracy", "f1"},
        "qqp": {"accuracy", "f1"},
        **{name: {"accuracy"} for name in ("sst2", "mnli", "qnli", "rte", "wnli")},
    }
    assert {name: set(task.metrics) for name, task in GLUE.items()} == expected


@pytest.mark.parametrize("task", GLUE)
def test_each_is_an_evaluate_metric_that_gives_the_formulas(task: str) -> None:
    random = np.random.default_rng(0)
    labels = GLUE[task].label_names
    draw = (lambda: random.random(50)) if labels is None else (lambda: random.integers(0, len(labels), 50))
    predictions, references = draw(), draw()
    found = compute(task, predictions, references)
    assert found == {name: FORMULAS[name].compute(predictions, references) for name in GLUE[task].metrics}
    assert issubclass(GlueMetric, evaluate.Metric) and all(isinstance(value, float) for value in found.values())


@settings(max_examples=10)
@given(both=pairs)
def test_perfect_predictions_score_one(both: list[tuple[int, int]]) -> None:
    references = np.array([0, 1, *(pair[1] for pair in both)])
    assert all(
        FORMULAS[name].compute(references, references) == pytest.approx(1.0)
        for name in ("accuracy", "f1", "matthews_correlation", "pearson", "spearmanr")
    )


def test_an_unknown_task_is_an_error() -> None:
    with pytest.raises(ValueError, match="no GLUE task 'imdb'"):
        compute("imdb", [0], [0])
