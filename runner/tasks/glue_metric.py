"""GLUE's official metrics as an ``evaluate.Metric``. Import late: the ``evaluate`` library takes seconds to load."""

from __future__ import annotations

import tempfile
from typing import Any

import datasets
import evaluate
import numpy as np

from qexp.runner.tasks.formulas import FORMULAS
from qexp.runner.tasks.glue import GLUE


class GlueMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """What ``evaluate.load("glue", task)`` would fetch from the hub, computed here. ``config_name`` is the task."""

    def _info(self) -> Any:
        if self.config_name not in GLUE:
            raise ValueError(f"no GLUE task {self.config_name!r}; there are {', '.join(GLUE)}")
        kind = datasets.Value("float64" if GLUE[self.config_name].label_names is None else "int64")
        return evaluate.MetricInfo(
            description="The official metrics of a GLUE task.",
            citation="Wang et al., GLUE, ICLR 2019",
            inputs_description="predictions: one per example; references: the labels.",
            features=datasets.Features({"predictions": kind, "references": kind}),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        pair = np.asarray(predictions), np.asarray(references)
        return {name: FORMULAS[name].compute(*pair) for name in GLUE[self.config_name].metrics}


def compute(task: str, predictions: Any, references: Any) -> dict[str, float]:
    """The task's metrics."""
    return computed(GlueMetric, task, predictions, references)


def computed(kind: type[Any], config: str | None, predictions: Any, references: Any) -> dict[str, float]:
    """An ``evaluate.Metric``'s values, leaving no file behind (else ``evaluate`` keeps a cache folder per metric)."""
    with tempfile.TemporaryDirectory() as folder:
        metric = kind(config, keep_in_memory=True, cache_dir=folder)
        return dict(metric.compute(predictions=predictions, references=references))
