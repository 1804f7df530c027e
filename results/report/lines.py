"""The curves of a table, one panel a quantity that is varied and one line a row, as shapes of an SVG drawing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from qexp.results.statistics import Summary
from qexp.results.table import Curves, Table, number

STYLES = 6
"""Lines told apart by colour, mark and stroke together; more of them begin again with the first."""
WIDTH, HEIGHT = 420.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 56.0, 12.0, 10.0, 40.0
"""Margins around the points, for the labels of the axes."""
TICKS = 4
"""Steps of the vertical axis, more or less: they are round numbers."""
MOST_TICKS = 8


@dataclass(frozen=True)
class Point:
    x: float
    y: float
    low: float
    high: float
    """Ends of the bar of one standard deviation; both ``y`` where it is not known."""
    told: str


@dataclass(frozen=True)
class Line:
    label: str
    style: int
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Chart:
    label: str
    metric: str
    lines: tuple[Line, ...]
    across: tuple[tuple[float, str], ...]
    up: tuple[tuple[float, str], ...]
    """Ticks: where, and what is written there."""
    words: str


def curves(table: Table) -> tuple[Chart, ...]:
    """A chart for each of the table's curves that has a figure: means over seeds, bars of one standard deviation."""
    return tuple(chart for one in table.curves if (chart := _chart(one, table)) is not None)


def _chart(one: Curves, table: Table) -> Chart | None:
    rows = [
        [(x, summary) for x, column in one.points if (summary := row[table.labels + column].summary) is not None]
        for row in table.cells
    ]
    known = [summary for row in rows for _, summary in row]
    if not known:
        return None
    places = [x for x, _ in one.points]
    ticks = rounded(min(map(_low, known)), max(map(_high, known)))
    across = _Axis(places[0], places[-1], LEFT + 8, WIDTH - RIGHT - 8, one.logarithmic)
    up = _Axis(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP)
    lines = [
        Line(
            row[0].text,
            place % STYLES,
            tuple(
                Point(across(x), up(found.mean), up(_low(found)), up(_high(found)), f"{x:g}: {number(found)}")
                for x, found in points
            ),
        )
        for place, (row, points) in enumerate(zip(table.cells, rows, strict=True))
    ]
    metric = one.metric.replace("_", " ")
    return Chart(
        label=one.label,
        metric=metric,
        lines=tuple(lines),
        across=tuple((across(x), f"{x:g}") for x in _labelled(places)),
        up=tuple((up(y), f"{y:g}") for y in ticks),
        words=f"{metric} over {one.label}. " + " ".join(_words(line) for line in lines if line.points),
    )


def _labelled(places: Sequence[float]) -> Sequence[float]:
    """Every point, or the ends alone where there are too many to write on."""
    return places if len(places) <= MOST_TICKS else (places[0], places[-1])


def _words(line: Line) -> str:
    return f"{line.label}: {', '.join(point.told for point in line.points)}."


def _low(found: Summary) -> float:
    return found.mean - (found.std or 0.0)


def _high(found: Summary) -> float:
    return found.mean + (found.std or 0.0)


@dataclass(frozen=True)
class _Axis:
    """From a range of figures to a range of the drawing."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (math.log(v) if self.logarithmic else v for v in (self.low, self.high, value))
        share = (at - low) / (high - low) if high > low else 0.5
        return round(self.start + (self.end - self.start) * share, 1)


def rounded(low: float, high: float) -> Sequence[float]:
    """Ticks at multiples of 1, 2 or 5 times a power of ten that enclose the range."""
    rough = (high - low) / TICKS or abs(high) / TICKS or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [n * step for n in range(first, max(last, first + 1) + 1)]
