"""Runs that give one answer for every example."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qexp.results.collapse import is_constant
from qexp.results.schema import Metric


@pytest.mark.parametrize(
    ("task", "metric", "n", "value", "constant"),
    [
        ("sst2", "accuracy", 872, 444 / 872, True),
        ("sst2", "accuracy", 872, 428 / 872, True),
        ("sst2", "accuracy", 872, 445 / 872, False),
        ("sst2", "accuracy", 32, 0.5, False),
        ("rte", "accuracy", 277, 146 / 277, True),
        ("mrpc", "f1", 408, 2 * 279 / (408 + 279), True),
        ("mrpc", "f1", 408, 0.0, True),
        ("mrpc", "f1", 408, 0.85, False),
        ("cola", "matthews_correlation", 1043, 0.0, True),
        ("cola", "matthews_correlation", 100, 0.01, False),
        ("stsb", "pearson", 1500, 0.0, True),
        ("wikitext2", "perplexity", 872, 0.0, False),
    ],
)
def test_told_from_the_figure(make: Any, task: str, metric: str, n: int, value: float, constant: bool) -> None:
    record = make(changes={"task.name": task})
    record = replace(record, metrics={"float": {metric: Metric(value, True, n, "d")}})
    assert is_constant(record, "float", None) == is_constant(record, "float", metric) == constant
    assert not is_constant(record, "w8a8", None) and not is_constant(record, "float", "bleu")
