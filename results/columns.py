"""Which figures a record holds, as columns of a table. Figures of unlike formulas never share a column."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qexp.conf.errors import UserError
from qexp.results.certificate import sentence
from qexp.results.schema import INTEGER, OWN, Record

OUTLIER_STATISTICS = {"max_inf_norm": "inf_norm_roles", "avg_kurtosis": "kurtosis_roles"}
"""Columns made of the outlier summary, each with the summary's list of the site roles that it is taken over."""


@dataclass(frozen=True)
class Column:
    metric: str
    setting: str
    """``float``, ``w8a8``, ``w8a8.integer``; ``outliers`` for the float model's outlier statistics."""
    higher_is_better: bool
    formula: str
    """The definition up to its first semicolon; what follows there (data, split, window) belongs to a row's task."""

    @property
    def choice(self) -> str:
        """The name by which a user chooses this column."""
        return self.metric if self.setting == "outliers" else self.setting


@dataclass(frozen=True)
class Figure:
    value: float
    definition: str
    certificate: str = ""
    """What really ran, for a figure that was executed in integers."""


Figures = Mapping[Column, Figure]


def figures(record: Record, metric: str | None) -> Figures:
    """The record's figures of ``metric`` (None: its primary metric, the first one) and its outlier statistics."""
    found = {}
    for setting, by_name in record.metrics.items():
        name = next(iter(by_name), None) if metric is None else metric
        if name is not None and (entry := by_name.get(name)) is not None:
            formula = entry.definition.partition(";")[0]
            figure = Figure(entry.value, entry.definition, _certificate(record, setting))
            found[Column(name, setting, entry.higher_is_better, formula)] = figure
    return {**found, **_outlier_figures(record.outliers.get("summary", {}))}


def shown_setting(record: Record, name: str) -> str:
    """The record's setting that a table calls ``name``: ``method`` is what was executed, where the record has that."""
    return OWN + INTEGER if name == OWN and OWN + INTEGER in record.metrics else name


def _certificate(record: Record, setting: str) -> str:
    executed = setting.endswith(INTEGER)
    return sentence(record.integer[setting.removesuffix(INTEGER)]["certificate"]) if executed else ""


def _outlier_figures(summary: Mapping[str, Any]) -> Figures:
    roles = {key: f"{key}: {', '.join(summary[key])}" for key in OUTLIER_STATISTICS.values() if key in summary}
    definition = "; ".join([summary.get("definition", ""), *roles.values()])
    found = {}
    for name, key in OUTLIER_STATISTICS.items():
        if name in summary:
            value = math.nan if summary[name] is None else float(summary[name])
            found[Column(name, "outliers", False, roles.get(key, ""))] = Figure(value, definition)
    return found


def check_metric(records: Sequence[Record], metric: str | None) -> None:
    """Raise ``UserError`` if ``metric`` is given and some records have metrics, but none has this one."""
    known = sorted({name for record in records for by_name in record.metrics.values() for name in by_name})
    if metric is not None and known and metric not in known:
        raise UserError(f"no record has the metric {metric!r}; there are: {', '.join(known)}")


def choose(columns: Sequence[Column], wanted: Sequence[str] | None) -> list[Column]:
    """``columns`` in their order: by metric, float first, then falling bits, outlier statistics last.

    Raises:
        UserError: if one of ``wanted`` is none of them.
    """
    known = list(dict.fromkeys(column.choice for column in columns))
    for name in wanted or ():
        if name not in known:
            raise UserError(f"no record has the column {name!r}; there are: {', '.join(known)}")
    chosen = [column for column in columns if wanted is None or column.choice in wanted]
    places = {(column.metric, column.formula): place for place, column in reversed(list(enumerate(columns)))}
    return sorted(chosen, key=lambda c: (c.setting == "outliers", places[c.metric, c.formula], _order(c.setting)))


def _order(setting: str) -> tuple[int, int, int, str]:
    if match := re.fullmatch(r"w(\d+)a(\d+)(.*)", setting):
        return (1, -int(match[1]), -int(match[2]), match[3])
    return (0 if setting == "float" else 2, 0, 0, setting)


def heading(column: Column, columns: Sequence[Column]) -> str:
    """What stands above the column: the setting, the metric where there are several, a mark for its formula."""
    measured = [other for other in columns if other.setting != "outliers"]
    parts = [pretty(column.setting)] if column.setting != "outliers" else [column.metric.replace("_", " ")]
    if column in measured and len({other.metric for other in measured}) > 1:
        parts.insert(0, column.metric)
    if mark := formula_mark(column, columns):
        parts.append(mark)
    return " ".join([*parts, "↑" if column.higher_is_better else "↓"])


def formula_mark(column: Column, columns: Sequence[Column]) -> str:
    """``[a]``, ``[b]``, … where the columns hold several formulas of this metric; else nothing."""
    formulas = list(dict.fromkeys(other.formula for other in columns if other.metric == column.metric))
    return f"[{chr(ord('a') + formulas.index(column.formula))}]" if len(formulas) > 1 else ""


def pretty(setting: str) -> str:
    """``w8a8.integer`` as ``W8A8 integer``."""
    bits, _, kind = setting.partition(".")
    name = bits.upper() if re.fullmatch(r"w\d+a\d+", bits) else bits
    return f"{name} {kind}".strip()
