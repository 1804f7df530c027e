"""What taking outliers apart does to each linear layer: how many there are, the step, and the noise of the product."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qexp.results.heatmap import DPI, make_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WHOLE, SPLIT = "#c1121f", "#1d6996"
"""Colours of the tensor as a whole, and of its inliers with the outliers apart; told apart by shape too."""
HEIGHT_OF_A_LAYER = 0.19


def draw_split(analysis: Mapping[str, Any], path: Path, title: str) -> None:
    """Three panels over the layers in forward order, first at the top, as a PNG file."""
    layers = analysis["layers"]
    figure = make_figure(11.0, 1.6 + HEIGHT_OF_A_LAYER * len(layers), title)
    panels = figure.subplots(1, 3, sharey=True)
    _fractions(panels[0], layers)
    _pairs(panels[1], [layer["step"] for layer in layers], "step of the inputs (power of two)")
    panels[1].set_xscale("log", base=2)
    _pairs(panels[2], [layer["sqnr_db"] for layer in layers], "SQNR of the product [dB]")
    panels[0].set_yticks(range(len(layers)), short_names([layer["name"] for layer in layers]), size=7)
    panels[0].set_ylim(len(layers) - 0.4, -0.6)
    for axes in panels:
        axes.grid(axis="x", color="0.9")
        axes.set_axisbelow(True)
    panels[2].legend(loc="lower left", fontsize=8)
    figure.savefig(path, dpi=DPI, metadata={"Software": None})


def _fractions(axes: Axes, layers: Sequence[Mapping[str, Any]]) -> None:
    """Share of outliers as bars, with the columns that hold most of them in words."""
    percent = [100 * layer["outlier_fraction"] for layer in layers]
    axes.barh(range(len(layers)), percent, color="0.6")
    for row, (share, layer) in enumerate(zip(percent, layers, strict=True)):
        if layer["most"]:
            named = ", ".join(str(column) for column, _ in layer["most"][:3])
            more = layer["columns_with_outliers"] - len(layer["most"][:3])
            axes.text(share, row, f" {named}" + (f" +{more}" if more else ""), va="center", size=6)
    axes.set_xlim(0, max(max(percent, default=0.0) * 1.6, 0.01))
    axes.set_xlabel("outliers [% of elements], columns with most")


def _pairs(axes: Axes, values: Sequence[Mapping[str, float | None]], label: str) -> None:
    """For each layer the figure before and after, joined by a line."""
    for row, pair in enumerate(values):
        before, after = pair.get("whole"), pair.get("split")
        if before is not None and after is not None:
            axes.plot([before, after], [row, row], color="0.75", zorder=1)
    for form, colour, marker, name in (("whole", WHOLE, "s", "one tensor"), ("split", SPLIT, "o", "outliers apart")):
        known = [(pair[form], row) for row, pair in enumerate(values) if pair.get(form) is not None]
        if known:
            axes.plot(*zip(*known, strict=True), marker, color=colour, markersize=4, label=name, linestyle="none")
    axes.set_xlabel(label)


def short_names(names: Sequence[str]) -> list[str]:
    """The names without the beginning that the layers of the body share (``bert.encoder.layer.``)."""
    marks = [name.split(".") for name in names]
    numbered = [parts for parts in marks if any(part.isdigit() for part in parts)]
    if not numbered:
        return list(names)
    lead = ".".join(numbered[0][: next(i for i, part in enumerate(numbered[0]) if part.isdigit())]) + "."
    return [name.removeprefix(lead) for name in names]
