"""A table in a paper's own shape: the specification's rows and columns, one figure a cell, its verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from qexp.conf.errors import UserError
from qexp.conf.published import PublishedFigure
from qexp.conf.tables import AVERAGE, ColumnConfig, RowConfig, TableConfig, is_number
from qexp.results.claims import Measured, judge
from qexp.results.columns import Column, Figure, figures, shown_setting
from qexp.results.grid_notes import notes
from qexp.results.outcomes import Outcomes, read
from qexp.results.schema import Record
from qexp.results.select import model_label, text
from qexp.results.table import Cell, Curves, Table, beside, best, cell_of

Found = Mapping[tuple[int, int, int], Record | None]
"""The record of every seed, column and row (by their places in the specification); None where there is none yet."""
Body = list[list[Cell]]
PERPLEXITY = "perplexity"
"""The metric whose figures differ by factors; ``perplexity@ptb`` is it on another text."""


@dataclass(frozen=True)
class Reading:
    """All that the records of one cell say."""

    measured: Measured
    columns: tuple[Column, ...] = ()
    """Settings, metrics and formulas that were read, each once."""
    figures: tuple[Figure, ...] = ()
    records: Mapping[int, Record] = field(default_factory=dict)
    """By seed."""


def build(spec: TableConfig, found: Found, *, scale: str, command: str) -> Table:
    """Make the table of ``spec``; ``command`` is what makes the records that are not there yet.

    Raises:
        UserError: if a column would mix metrics or formulas, or an average metrics of unlike direction.
    """
    seeds = list(dict.fromkeys(seed for seed, _, _ in found))
    read = [[_read(spec, row, column, _of(found, x, y), seeds) for x, column in enumerate(spec.columns)]
            for y, row in enumerate(spec.rows)]  # fmt: skip
    columns = [_column(column, [row[x] for row in read]) for x, column in enumerate(spec.columns)]
    body = [[_cell(one, len(seeds)) for one in row] for row in read]
    _mark_best(spec, columns, body, found)
    if spec.average:
        columns.append(_average_column(spec, columns, read))
        for cells, row in zip(body, read, strict=True):
            cells.append(_cell(_average(spec, row), len(seeds)))
        _mark(columns[-1], len(columns) - 1, body, _comparable(found, range(len(spec.columns))))
    body = [[_beside(spec, row, name, cell) for name, cell in zip(_names(spec), cells, strict=True)]
            for row, cells in zip(spec.rows, body, strict=True)]  # fmt: skip
    cells_by_name = {
        (row.key, column.key): one.measured
        for row, line in zip(spec.rows, read, strict=True)
        for column, one in zip(spec.columns, line, strict=True)
    }
    verdicts = judge(spec, cells_by_name, scale)
    return Table(
        caption=f"{spec.title}, scale={scale}",
        row_keys=(spec.heading,),
        columns=tuple(columns),
        headings=(spec.heading, "seeds", *_headings(spec, columns)),
        cells=tuple((Cell(row.title), Cell(_complete(found, y, seeds)), *body[y]) for y, row in enumerate(spec.rows)),
        notes=notes(spec, body, found, verdicts, command),
        records=tuple({one.cell_id: one for one in found.values() if one is not None}.values()),
        verdicts=verdicts,
        curves=_curves(spec, read),
    )


def _curves(spec: TableConfig, read: Sequence[Sequence[Reading]]) -> tuple[Curves, ...]:
    places = {column.key: x for x, column in enumerate(spec.columns)}
    panels = []
    for one in spec.curves:
        points = tuple(sorted((where, places[name]) for name, where in one.points.items()))
        metrics = dict.fromkeys(told.metric for row in read for _, x in points for told in row[x].columns)
        panels.append(Curves(one.label, " / ".join(metrics), points, one.logarithmic))
    return tuple(panels)


def _of(found: Found, x: int, y: int) -> dict[int, Record]:
    return {seed: one for (seed, a, b), one in found.items() if (a, b) == (x, y) and one is not None}


def _read(
    spec: TableConfig, row: RowConfig, column: ColumnConfig, records: Mapping[int, Record], seeds: Sequence[int]
) -> Reading:
    """The figures of one cell by seed; what became of a run without one is told, never dropped."""
    values: dict[int, float] = {}
    problems: dict[int, str] = {}
    told: list[tuple[Column, Figure]] = []
    for seed, record in records.items():
        entry = read_figure(record, spec.figure(row, column), column)
        told += [entry] if entry else []
        if entry and math.isfinite(entry[1].value):
            values[seed] = entry[1].value
        else:
            unmeasured = "not finite" if entry else "not measured"
            problems[seed] = unmeasured if record.status == "finished" else record.status
    columns = tuple(dict.fromkeys(one for one, _ in told))
    higher = columns[0].higher_is_better if columns else True
    missing = tuple(seed for seed in seeds if seed not in records)
    perplexity = any(one.metric.partition("@")[0] == PERPLEXITY for one in columns)
    outcomes = partial(_outcomes, records, spec.figure(row, column), columns[0].metric if columns else "")
    measured = Measured(values, problems, higher, perplexity, missing, outcomes)
    return Reading(measured, columns, tuple(figure for _, figure in told), records)


def _outcomes(records: Mapping[int, Record], name: str, metric: str, seed: int) -> Outcomes | None:
    """What every example contributed to a cell's figure at one seed, where its record keeps that."""
    record = records.get(seed)
    return None if record is None else read(record, shown_setting(record, name), metric)


def read_figure(record: Record, name: str, column: ColumnConfig) -> tuple[Column, Figure] | None:
    """The figure ``name`` of ``record``: ``method`` is what was executed, where the record has that."""
    if is_number(name):
        return _number(record, name, bool(column.higher_is_better))
    setting = shown_setting(record, name)
    found = figures(record, column.metric)
    return next(((one, figure) for one, figure in found.items() if one.setting == setting), None)


def _number(record: Record, name: str, higher_is_better: bool) -> tuple[Column, Figure] | None:
    """The number that ``name`` leads to: of the outlier summary, or of the record's ``analysis`` or ``training``."""
    part, _, path = name.partition(".")
    if part == "outliers":
        found = figures(record, None)
        return next(((c, figure) for c, figure in found.items() if (c.setting, c.metric) == (part, path)), None)
    value = _walk({"analysis": record.analysis, "training": record.training}[part], path)
    measured = Column(path, part, higher_is_better, path)
    return None if value is None else (measured, Figure(value, f"{path} of the record's {part}"))


def _walk(tree: Any, path: str) -> float | None:
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return float(tree) if isinstance(tree, (int, float)) else None


def _column(column: ColumnConfig, read: Sequence[Reading]) -> Column:
    kinds = dict.fromkeys((one.metric, one.formula, one.higher_is_better) for row in read for one in row.columns)
    if len(kinds) > 1:
        told = " and ".join(dict.fromkeys(f"{metric} ({formula})" for metric, formula, _ in kinds))
        raise UserError(f"column {column.label!r} would mix {told}; give it a metric")
    if not kinds:
        return Column(column.label, "", True, "")
    metric, formula, higher = next(iter(kinds))
    return Column(f"{column.label} {metric}", "", higher, formula)


def _metric_places(spec: TableConfig) -> list[int]:
    return [x for x, column in enumerate(spec.columns) if spec.shows_metric(column)]


def _average(spec: TableConfig, row: Sequence[Reading]) -> Reading:
    """The mean over the columns that show a metric, of each seed that has them all."""
    parts = [row[x].measured for x in _metric_places(spec)]
    whole = [seed for seed in parts[0].values if all(seed in part.values for part in parts)] if parts else []
    values = {seed: math.fsum(part.values[seed] for part in parts) / len(parts) for seed in whole}
    problems = {seed: what for part in parts for seed, what in part.problems.items()}
    return Reading(Measured(values, problems))


def _average_column(spec: TableConfig, columns: Sequence[Column], read: Sequence[Sequence[Reading]]) -> Column:
    places = [x for x in _metric_places(spec) if any(row[x].columns for row in read)]
    directions = {columns[x].higher_is_better for x in places}
    if len(directions) > 1:
        raise UserError("an average over metrics of which some are better higher and some lower means nothing")
    return Column(AVERAGE, "", directions != {False}, "")


def _cell(one: Reading, seeds: int) -> Cell:
    setting = " / ".join(dict.fromkeys(column.setting for column in one.columns))
    return replace(
        cell_of(one.measured.values, one.measured.problems, seeds, one.figures, one.records), setting=setting
    )


def _mark_best(spec: TableConfig, columns: Sequence[Column], body: Body, found: Found) -> None:
    for x, (column, told) in enumerate(zip(spec.columns, columns, strict=True)):
        if spec.shows_metric(column) or column.higher_is_better is not None:
            _mark(told, x, body, _comparable(found, [x]))


def _mark(column: Column, x: int, body: Body, comparable: bool) -> None:
    top = best(column, {y: row[x] for y, row in enumerate(body)}) if comparable else None
    if top is not None:
        body[top][x] = replace(body[top][x], best=True)


def _comparable(found: Found, places: Sequence[int]) -> bool:
    """Whether every column has one model, task and scale in all of its rows."""
    alike: dict[int, set[tuple[str, ...]]] = {x: set() for x in places}
    for (_, x, _), record in found.items():
        if x in alike and record is not None:
            config = record.config
            alike[x].add((model_label(config["model"]), text(config["task"]["name"]), text(config["scale"])))
    return all(len(kinds) <= 1 for kinds in alike.values())


def _names(spec: TableConfig) -> list[str]:
    return [*(column.key for column in spec.columns), *([AVERAGE] if spec.average else [])]


def published_figure(spec: TableConfig, row: RowConfig, name: str) -> PublishedFigure | None:
    """The paper's figure of a row and column, or None where the specification says nothing."""
    cells = (spec.published and spec.published.cells) or {}
    return cells.get(row.key, {}).get(name)


def _beside(spec: TableConfig, row: RowConfig, name: str, cell: Cell) -> Cell:
    figure = published_figure(spec, row, name)
    if figure is None or figure.value is None:
        return cell
    return replace(cell, text=cell.text + beside(figure), published=figure)


def _headings(spec: TableConfig, columns: Sequence[Column]) -> list[str]:
    """Labels with an arrow where one direction is better and known."""
    lines = []
    for name, column, given in zip(_labels(spec), columns, [*spec.columns, None], strict=False):
        unknown = given is not None and not spec.shows_metric(given) and given.higher_is_better is None
        known = not unknown and (column.formula or (given is None and any(one.formula for one in columns)))
        lines.append(f"{name} {'↑' if column.higher_is_better else '↓'}" if known else name)
    return lines


def _labels(spec: TableConfig) -> list[str]:
    return [*(column.label for column in spec.columns), *([AVERAGE] if spec.average else [])]


def _complete(found: Found, y: int, seeds: Sequence[int]) -> str:
    """``3``, or ``2 of 3`` where a run of the row is not there or did not finish."""
    missing = {seed for (seed, _, b), one in found.items() if b == y and (one is None or one.status != "finished")}
    done = len(seeds) - len(missing)
    return f"{done}" if not missing else f"{done} of {len(seeds)}"
