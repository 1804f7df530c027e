"""SQuAD's official metrics as an ``evaluate.Metric``. Import late: the ``evaluate`` library takes seconds to load."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from qexp.runner.tasks.answers import scores
from qexp.runner.tasks.glue_metric import computed


class SquadMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """What ``evaluate.load("squad_v2")`` would fetch from the hub, computed here, of plain texts and as shares."""

    def _info(self) -> Any:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="SQuAD's exact match and F1.",
            citation="Rajpurkar et al., SQuAD, EMNLP 2016; Know What You Don't Know, ACL 2018",
            inputs_description="predictions: an answer a question, empty for none; references: its right answers.",
            features=datasets.Features({"predictions": text, "references": datasets.Sequence(text)}),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return scores(predictions, references)


def compute(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    return computed(SquadMetric, None, predictions, references)
