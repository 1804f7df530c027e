"""Runs that fell into one answer for every example, as far as their figures tell it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from qexp.results.schema import Metric, Record

CLASSES: Mapping[str, tuple[int, ...]] = {
    "sst2": (428, 444),
    "cola": (322, 721),
    "mrpc": (129, 279),
    "rte": (146, 131),
}
"""Examples of each class in GLUE's whole validation sets, the positive one last."""
CORRELATIONS = ("matthews_correlation", "pearson", "spearmanr")


def is_constant(record: Record, setting: str, metric: str | None) -> bool:
    """Whether the figure (of the primary metric for None) is exactly that of one answer for every example.

    Always to be told of a correlation, which is then 0; of an accuracy or F1 where the evaluation set is one of
    :data:`CLASSES` as a whole.
    """
    by_name = record.metrics.get(setting, {})
    name = next(iter(by_name), "") if metric is None else metric
    entry = by_name.get(name)
    if entry is None:
        return False
    if name in CORRELATIONS:
        return entry.value == 0
    task = record.config.get("task", {})
    counts = CLASSES.get(task.get("subset") or task.get("name", ""), ())
    return sum(counts) == entry.n and any(math.isclose(entry.value, one) for one in _constants(name, entry, counts))


def _constants(name: str, entry: Metric, counts: tuple[int, ...]) -> list[float]:
    """Figures of the constant answers: F1 is 0, or with every example taken for positive 2p / (1 + p)."""
    if name == "accuracy":
        return [count / entry.n for count in counts]
    positive = counts[-1] / entry.n
    return [0.0, 2 * positive / (1 + positive)] if name == "f1" else []
