"""The picture of a table whose columns are points: one panel a quantity that is varied, one line a row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qexp.conf.errors import UserError
from qexp.results.heatmap import DPI, make_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from qexp.results.table import Curves, Table

STYLES = (
    ("#0072b2", "o", "-"),
    ("#d55e00", "s", "--"),
    ("#009e73", "^", "-."),
    ("#cc79a7", "D", ":"),
    ("#5e3c99", "v", "-"),
    ("0.25", "X", "--"),
)
"""Colour, marker and stroke of each line in turn: told apart without colour too."""
WIDTH, HEIGHT = 5.0, 4.2
"""Of a panel, in inches."""
MOST_TICKS = 8


def draw_curves(table: Table, path: Path) -> None:
    """Draw ``table.curves`` as a PNG file: means over seeds, with bars of one standard deviation where it is known.

    Raises:
        UserError: for a table without curves or without any figure for them, and if ``path`` cannot be written.
    """
    if not table.curves:
        raise UserError("this table has no picture: its specification has no `curves`")
    if not table.has_curves:
        raise UserError("there is no figure to draw yet; the table says what makes the records")
    figure = make_figure(WIDTH * len(table.curves), HEIGHT, table.caption)
    panels = figure.subplots(1, len(table.curves), squeeze=False)[0]
    for axes, curves in zip(panels, table.curves, strict=True):
        _panel(axes, curves, table)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    try:
        figure.savefig(path, dpi=DPI, metadata={"Software": None})
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _panel(axes: Axes, curves: Curves, table: Table) -> None:
    for place, row in enumerate(table.cells):
        cells = [(x, row[table.labels + column].summary) for x, column in curves.points]
        known = [(x, found.mean, found.std or 0.0) for x, found in cells if found is not None]
        colour, marker, stroke = STYLES[place % len(STYLES)]
        xs, means, spreads = zip(*known, strict=True) if known else ((), (), ())
        style: dict[str, Any] = {
            "color": colour,
            "marker": marker,
            "linestyle": stroke,
            "markersize": 4.5,
            "linewidth": 1.4,
        }
        axes.errorbar(xs, means, yerr=spreads, label=row[0].text, capsize=2.5, elinewidth=0.8, **style)
    if curves.logarithmic:
        axes.set_xscale("log")
    if len(curves.points) <= MOST_TICKS:
        ticks = [x for x, _ in curves.points]
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks], minor=False)
        axes.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    axes.set_xlabel(curves.label)
    axes.set_ylabel(curves.metric.replace("_", " "))
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
