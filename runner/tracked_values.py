"""A record's figures as W&B takes them: by flat names, and as rows of a table."""

from __future__ import annotations

from typing import Any

from qexp.results.certificate import sentence
from qexp.results.schema import INTEGER, Record

SETTINGS_COLUMNS = ("setting", "metric", "value", "higher_is_better", "n", "definition")
"""Columns of the table of a record's metrics, one row a setting and metric."""


def summary_values(record: Record) -> dict[str, Any]:
    """A record's figures by flat names: ``w8a8/accuracy``, ``w8a8.integer/gap/metric``, ``seconds/train``."""
    values: dict[str, Any] = {"status": record.status, "cell_id": record.cell_id}
    values |= {f"{setting}/{name}": value for setting, name, value, *_ in settings_rows(record)}
    numbers = {k: v for k, v in record.outliers.get("summary", {}).items() if isinstance(v, (int, float))}
    values |= {f"outliers/{name}": value for name, value in numbers.items()}
    for bits, found in record.integer.items():
        gap = {name: value for name, value in found["gap"].items() if isinstance(value, (int, float))}
        values |= {f"{bits}{INTEGER}/gap/{name}": value for name, value in gap.items()}
        values[f"{bits}{INTEGER}/certificate"] = sentence(found["certificate"])
    return values | {f"seconds/{phase}": seconds for phase, seconds in record.timings.items()}


def settings_rows(record: Record) -> list[tuple[Any, ...]]:
    """One row a quantizer setting and metric, in the order of :data:`SETTINGS_COLUMNS`."""
    return [
        (setting, name, metric.value, metric.higher_is_better, metric.n, metric.definition)
        for setting, metrics in record.metrics.items()
        for name, metric in metrics.items()
    ]
