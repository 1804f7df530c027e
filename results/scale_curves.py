"""Scales of a network's tensors over the steps of its training: their ends in words, and a picture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qexp.results.heatmap import DPI, make_figure
from qexp.results.scale_plot import LOWEST, MARKS, snr_curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT, COLUMNS = 3.9, 3.4, 3
"""Of a panel, in inches, and panels a row."""
RANGE = (2.0**-32, 2.0**8)
"""The vertical axis of every picture, unless scales lie beyond it, so that two networks can be compared by eye."""
COLOURS = "viridis"


@dataclass(frozen=True)
class Course:
    """The standard deviation of one tensor over the measured steps; a step at which it is not known is left out."""

    place: str
    kind: str
    points: tuple[tuple[int, float], ...]
    """Step, and standard deviation."""

    @property
    def lowest(self) -> tuple[int, float]:
        return min(self.points, key=lambda point: point[1])

    @property
    def highest(self) -> tuple[int, float]:
        return max(self.points, key=lambda point: point[1])

    def stays_within(self, band: Sequence[float]) -> bool:
        return band[0] <= self.lowest[1] and self.highest[1] <= band[1]


def courses(scales: Mapping[str, Any]) -> dict[str, list[Course]]:
    """Kind -> the courses of its tensors in the network's order, of a record's ``training.scales``."""
    found: dict[str, list[Course]] = {kind: [] for kind in MARKS}
    for place, kinds in scales["tensors"].items():
        for kind, values in kinds.items():
            points = [(step, std) for step, std in zip(scales["steps"], values, strict=True) if _is_known(std)]
            if points:
                found[kind].append(Course(place, kind, tuple(points)))
    return {kind: tensors for kind, tensors in found.items() if tensors}


def _is_known(std: float | None) -> bool:
    return std is not None and math.isfinite(std)


def in_words(scales: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Of each kind its name; between what its tensors lie at both ends of training, and how many keep to the band."""
    low, high = scales["band"]
    for kind, tensors in courses(scales).items():
        ends = (
            f"{min(stds):.3g} to {max(stds):.3g} at step {tensors[0].points[at][0]}"
            for at in (0, -1)
            if (stds := [one.points[at][1] for one in tensors])
        )
        inside = sum(one.stays_within((low, high)) for one in tensors)
        yield MARKS[kind][0], f"{', '.join(ends)}; {inside} of {len(tensors)} always within {low:g} to {high:g}"


def draw_scale_curves(scales: Mapping[str, Any], path: Path, title: str) -> None:
    """A panel a kind and a line a tensor, its colour the place in the network, as a PNG file.

    ``scales``: a record's ``training.scales``; with ``casting`` as in :func:`~qexp.results.scale_plot.draw_scales` a
    last panel shows how precisely formats keep numbers of each scale, on the same vertical axis.
    """
    found, noise = courses(scales), scales.get("casting")
    panels = len(found) + bool(noise)
    columns, rows = min(panels, COLUMNS), math.ceil(panels / COLUMNS)
    figure = make_figure(WIDTH * columns + 0.8, HEIGHT * rows, title)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes in grid.flat[panels:]:
        axes.set_visible(False)
    order = {place: row for row, place in enumerate(scales["tensors"])}
    for axes, (kind, tensors) in zip(grid.flat, found.items(), strict=False):
        _lines(axes, tensors, order, scales["band"])
        axes.set_title(f"{MARKS[kind][0]} ({len(tensors)})", size=9)
    if noise:
        _casting(grid.flat[len(found)], noise, scales["band"])
    _vertical(grid[0][0], [std for tensors in found.values() for one in tensors for _, std in one.points])
    for row in grid:
        row[0].set_ylabel("standard deviation", size=8)
    _legend(figure, grid)
    figure.savefig(path, dpi=DPI, metadata={"Software": None})


def _lines(axes: Axes, tensors: Sequence[Course], order: Mapping[str, int], band: Sequence[float]) -> None:
    from matplotlib import colormaps

    colours = colormaps[COLOURS]
    for one in tensors:
        steps, stds = zip(*one.points, strict=True)
        colour = colours(order[one.place] / max(len(order) - 1, 1))
        marker = "" if len(steps) > 1 else "o"
        axes.plot(steps, [max(std, LOWEST) for std in stds], marker=marker, markersize=3, color=colour, linewidth=1)
    for pick, below in ((min, True), (max, False)):
        one = pick(tensors, key=lambda course: course.points[-1][1])
        at = one.points[-1][0], max(one.points[-1][1], LOWEST)
        offset, align = ((0, -3), "top") if below else ((0, 3), "bottom")
        axes.annotate(one.place, at, offset, textcoords="offset points", ha="right", va=align, size=6)
    axes.set_xlabel("optimizer steps taken", size=8)
    _grid(axes, band)


def _casting(axes: Axes, noise: Mapping[str, Any], band: Sequence[float]) -> None:
    """Signal to noise of casting normal numbers of each scale, the scale upwards."""
    for name, style, scales, curve in snr_curves(noise):
        axes.plot(curve, scales, style, color="0.2", label=name)
    axes.set_title("how precisely formats keep normal numbers", size=9)
    axes.set_xlabel("SNR of casting [dB]", size=8)
    axes.legend(fontsize=7, loc="upper left")
    _grid(axes, band)


def _grid(axes: Axes, band: Sequence[float]) -> None:
    axes.axhspan(*band, color="0.92", zorder=0)
    axes.grid(color="0.9", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=7)


def _vertical(axes: Axes, known: Sequence[float]) -> None:
    from matplotlib.ticker import LogLocator

    axes.set_yscale("log", base=2)
    axes.set_ylim(min(RANGE[0], max(LOWEST, min(known)) / 2), max(RANGE[1], max(known) * 2))
    axes.yaxis.set_major_locator(LogLocator(base=16))


def _legend(figure: Figure, grid: Any) -> None:
    """Which colour is where in the network."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), COLOURS), ax=grid, aspect=40, pad=0.01)
    bar.set_ticks([0, 1], labels=["first", "last"], size=7)
    bar.set_label("place in the network; grey: scales of no concern", size=8)
