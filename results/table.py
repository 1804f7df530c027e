"""A table of records: one row for each way of running the experiment, one column for each figure, seeds averaged."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from qexp.conf.errors import UserError
from qexp.conf.published import PublishedFigure
from qexp.results.claims import Verdict
from qexp.results.columns import Column, Figure, Figures, check_metric, choose, figures, heading
from qexp.results.rows import ABSENT, Group, group, heading_of_key
from qexp.results.schema import Record
from qexp.results.select import check_keys, matches
from qexp.results.statistics import Summary, differs, summarize


@dataclass(frozen=True)
class Run:
    """One record behind a cell, and the figure that the cell took from it; None where it gave no finite one."""

    record: Record
    value: float | None


@dataclass(frozen=True)
class Cell:
    text: str
    best: bool = False
    """Best of its column among the rows that it may be compared with, by more than the spread: printed bold."""
    summary: Summary | None = None
    """None for a label, and where no run gave a finite figure."""
    definition: str = ""
    """What exactly was computed."""
    certificate: str = ""
    """What really ran, for a figure that was executed in integers."""
    problem: str = ""
    """What became of the runs without a finite figure: ``diverged``, ``failed``, ``interrupted``, ``not finite``."""
    setting: str = ""
    """What the figure is of, where that differs between the rows of a column."""
    published: PublishedFigure | None = None
    """The figure that the paper prints for this cell."""
    runs: tuple[Run, ...] = field(default=(), repr=False)
    """The records behind the figure, in the order of their seeds."""

    @property
    def own(self) -> str:
        """The text without the paper's figure."""
        return self.text.removesuffix(beside(self.published)) if self.published else self.text

    @property
    def papers(self) -> str:
        """The paper's figure, and our mean less it; empty where the paper has none."""
        if self.published is None or self.published.value is None:
            return ""
        text = f"paper {self.published.text}"
        if self.summary is None:
            return text
        apart = self.summary.mean - self.published.value
        return f"{text}, ours {format(apart, '+' + _style(abs(apart), digits=3))}"


@dataclass(frozen=True)
class Curves:
    """One panel of a table's picture: columns as points, a line a row."""

    label: str
    metric: str
    points: tuple[tuple[float, int], ...]
    """Where on the horizontal axis, and the place of the column; from left to right."""
    logarithmic: bool = False


@dataclass(frozen=True)
class Table:
    """Ready to print: caption, ``headings`` over ``cells``, and the notes that belong under them."""

    caption: str
    row_keys: tuple[str, ...]
    columns: tuple[Column, ...]
    headings: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]
    """One tuple a row: a cell for each row key, one for the number of seeds, one for each column."""
    notes: tuple[str, ...]
    records: tuple[Record, ...]
    verdicts: tuple[Verdict, ...] = ()
    """On the claims of a specification; the notes tell them too."""
    curves: tuple[Curves, ...] = ()

    @property
    def labels(self) -> int:
        """How many cells of a row, from the left, are no figures."""
        return len(self.row_keys) + 1

    @property
    def has_curves(self) -> bool:
        """Whether there is a figure to draw."""
        places = [self.labels + place for curves in self.curves for _, place in curves.points]
        return any(row[place].summary for row in self.cells for place in places)


def build(
    records: Iterable[Record],
    *,
    rows: Sequence[str] = ("method",),
    columns: Sequence[str] | None = None,
    metric: str | None = None,
    where: Mapping[str, Any] | None = None,
) -> Table:
    """Make a table of ``records``; the same records in any order give the same table.

    Args:
        rows: dotted configuration keys that make a row. Every other key in which the records differ is added, except
            the seed, so that unlike runs are never averaged.
        columns: settings (``float``, ``w8a8``) and outlier statistics (``max_inf_norm``) to show; None for all.
        metric: the metric to show; None for each record's first one, its task's primary metric.
        where: only records with these configuration values.

    Raises:
        UserError: if no record is left, or a key, column or metric is in none of them.
    """
    from qexp.results.notes import caption, notes

    listed = list({record.cell_id: record for record in records}.values())
    check_keys(listed, where or {})
    chosen = [record for record in listed if matches(record, where or {})]
    if not chosen:
        raise UserError("there is no record to make a table of; `qexp run` makes one")
    check_metric(chosen, metric)
    keys, groups = group(chosen, rows)
    found = {record.cell_id: figures(record, metric) for record in chosen}
    in_order = dict.fromkeys(column for one in groups for record in one.records for column in found[record.cell_id])
    shown = choose(list(in_order), columns)
    body = _mark_best(groups, shown, [[_cell(one, groups, column, found) for column in shown] for one in groups])
    return Table(
        caption=caption(chosen, shown),
        row_keys=keys,
        columns=tuple(shown),
        headings=(*(heading_of_key(key, keys) for key in keys), "seeds", *(heading(c, shown) for c in shown)),
        cells=tuple((*map(Cell, one.labels), Cell(_runs(one)), *row) for one, row in zip(groups, body, strict=True)),
        notes=notes(keys, groups, shown, body),
        records=tuple(record for one in groups for record in one.records),
    )


def _runs(one: Group) -> str:
    """``3``, or ``2 of 3`` where a run did not finish."""
    finished = {record.config.get("seed") for record in one.records if record.status == "finished"}
    return f"{len(finished)}" if len(finished) == len(one.seeds) else f"{len(finished)} of {len(one.seeds)}"


def _cell(one: Group, groups: Sequence[Group], column: Column, found: Mapping[str, Figures]) -> Cell:
    """The mean over the seeds with a finite figure; what became of the others is said, never dropped."""
    values: dict[Any, float] = {}
    problems: dict[Any, str] = {}
    told: list[Figure] = []
    for record in one.records:
        figure, seed = found[record.cell_id].get(column), record.config.get("seed")
        told += [figure] if figure is not None else []
        if figure is not None and math.isfinite(figure.value):
            values[seed] = figure.value
        elif figure is not None or (record.status != "finished" and _expected(one, groups, column, found)):
            problems[seed] = "not finite" if record.status == "finished" else record.status
    runs = {record.config.get("seed"): record for record in one.records}
    return cell_of(values, problems, len(one.seeds), told, runs)


def cell_of(
    values: Mapping[Any, float],
    problems: Mapping[Any, str],
    seeds: int,
    told: Iterable[Figure],
    records: Mapping[Any, Record],
) -> Cell:
    """The cell of these finite figures by seed, of what became of the other seeds, and of what was computed.

    ``records``: those behind it, by seed.
    """
    problem = ", ".join(sorted({what for seed, what in problems.items() if seed not in values}))
    listed = list(told)
    definitions = dict.fromkeys(figure.definition for figure in listed)
    certificates = dict.fromkeys(figure.certificate for figure in listed if figure.certificate)
    empty = Cell(
        problem or ABSENT,
        definition=" / ".join(definitions),
        certificate=" / ".join(certificates),
        problem=problem,
        runs=tuple(Run(record, values.get(seed)) for seed, record in records.items()),
    )
    if not values:
        return empty
    summary = summarize(values.values())
    share = f" ({summary.n} of {seeds})" if summary.n < seeds else ""
    return replace(empty, text=number(summary) + share, summary=summary)


def _expected(one: Group, groups: Sequence[Group], column: Column, found: Mapping[str, Figures]) -> bool:
    """Whether an unfinished run would have had this figure: runs it may be compared with have it, or none has any."""
    beside = [found[record.cell_id] for other in groups if other.block == one.block for record in other.records]
    return any(column in figures for figures in beside) or not any(beside)


def beside(figure: PublishedFigure) -> str:
    """What is printed of the paper's figure after ours."""
    return f" (paper {figure.text})"


def number(summary: Summary) -> str:
    """``mean ± std`` with four significant digits of the mean; the mean alone where no spread is known."""
    style = _style(max(abs(summary.mean), summary.std or 0.0), digits=4)
    return " ± ".join(format(value, style) for value in (summary.mean, summary.std) if value is not None)


def _style(size: float, digits: int) -> str:
    """How a number of this size is printed with so many significant digits."""
    if size >= 1e6 or 0 < size < 1e-3:
        return f".{digits - 1}e"
    return f",.{max(0, digits - 1 - math.floor(math.log10(size)))}f" if size else ".1f"


def _mark_best(groups: Sequence[Group], columns: Sequence[Column], body: list[list[Cell]]) -> list[list[Cell]]:
    """Mark the best cell of each column and block, only where it differs from every other by more than the spread."""
    blocks: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for row, one in enumerate(groups):
        blocks[one.block].append(row)
    for members in blocks.values():
        for place, column in enumerate(columns):
            top = best(column, {row: body[row][place] for row in members})
            if top is not None:
                body[top][place] = replace(body[top][place], best=True)
    return body


def best(column: Column, cells: Mapping[int, Cell]) -> int | None:
    """The row whose figure is better than every other's by more than the spread; None where there is no such row.

    A mean over the runs that happened to survive is never the best, nor a rival that need be told apart.
    """
    known = {row: cell.summary for row, cell in cells.items() if cell.summary is not None}
    top = (max if column.higher_is_better else min)(known, key=lambda row: known[row].mean, default=None)
    if top is None or cells[top].problem:
        return None
    rivals = [other for row, other in known.items() if row != top and not cells[row].problem]
    return top if rivals and all(differs(known[top], other) for other in rivals) else None
