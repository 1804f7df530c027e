"""Scales of a network's tensors on one axis with how precisely number formats keep numbers of each scale."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qexp.results.heatmap import DPI, make_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKS = {
    "weight": ("weights", "#333333", "s"),
    "activation": ("activations", "#1d6996", "o"),
    "gradient": ("gradients of activations", "#c1121f", "^"),
    "weight_gradient": ("gradients of weights", "#e17c05", "v"),
    "bias_gradient": ("gradients of biases", "#94346e", "x"),
}
"""Kind of a tensor -> its name, colour and marker."""
STROKES = ("-", "--", ":")
"""Of the formats, in their order."""
HEIGHT_OF_A_PLACE = 0.15
LOWEST = 2.0**-40
"""Where scales below are drawn, zero among them."""


def draw_scales(analysis: Mapping[str, Any], path: Path, title: str) -> None:
    """One row a place, the first at the top, on a logarithmic axis, as a PNG file.

    ``analysis``: ``band`` (smallest and largest scale of no concern), ``initial`` (place -> kind -> standard
    deviation), where it is known ``trained``, of the same form, and ``casting`` (``exponents`` of 2, and ``snr_db`` of
    each format).
    """
    from matplotlib.ticker import LogLocator

    panels = {name: analysis[name] for name in ("initial", "trained") if analysis.get(name)}
    rows, noise = len(panels["initial"]), analysis.get("casting")
    heights = [1.2 + HEIGHT_OF_A_PLACE * rows, *([2.0] if noise else [])]
    figure = make_figure(2.5 + 5.0 * len(panels), sum(heights) + 0.8, title)
    grid = figure.subplots(len(heights), len(panels), height_ratios=heights, sharex=True, squeeze=False)
    for axes, (name, scales) in zip(grid[0], panels.items(), strict=True):
        _places(axes, list(panels["initial"]), scales, analysis["band"])
        axes.set_title("at initialisation" if name == "initial" else "after training", size=9)
    grid[0][0].set_yticks(range(rows), list(panels["initial"]), size=6)
    for axes in grid[0][1:]:
        axes.set_yticks(range(rows), [])
    if noise:
        for axes in grid[1]:
            _casting(axes, noise)
    for axes in grid[-1]:
        axes.set_xlabel("standard deviation")
        axes.xaxis.set_major_locator(LogLocator(base=16))
    figure.legend(
        *grid[0][0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3 * len(panels),
        fontsize=8,
        frameon=False,
    )
    figure.savefig(path, dpi=DPI, metadata={"Software": None})


def _places(
    axes: Axes, places: list[str], scales: Mapping[str, Mapping[str, float]], band: tuple[float, float]
) -> None:
    axes.set_xscale("log", base=2)
    axes.axvspan(*band, color="0.93", zorder=0, label=f"{band[0]:g} to {band[1]:g}")
    for kind, (label, colour, marker) in MARKS.items():
        found = [(scales[place][kind], row) for row, place in enumerate(places) if kind in scales.get(place, {})]
        known = [(max(std, LOWEST), row) for std, row in found if std is not None and math.isfinite(std)]
        if known:
            axes.plot(*zip(*known, strict=True), marker, color=colour, markersize=3.5, linestyle="none", label=label)
    axes.set_ylim(len(places) - 0.4, -0.6)
    axes.grid(color="0.9", linewidth=0.5)
    axes.set_axisbelow(True)


def _casting(axes: Axes, noise: Mapping[str, Any]) -> None:
    """Signal to noise of casting normal numbers of each scale."""
    for name, style, scales, curve in snr_curves(noise):
        axes.plot(scales, curve, style, color="0.2", label=name)
    axes.set_ylabel("SNR of casting [dB]", size=8)
    axes.legend(fontsize=7, loc="center left")
    axes.grid(color="0.9", linewidth=0.5)


def snr_curves(noise: Mapping[str, Any]) -> Iterator[tuple[str, str, list[float], list[float]]]:
    """Of each format its name, its stroke, and what is drawn: scales, and the signal to noise [dB] of casting there."""
    scales = [2.0**e for e in noise["exponents"]]
    for (name, curve), stroke in zip(noise["snr_db"].items(), STROKES, strict=False):
        yield name, stroke, scales, [math.nan if snr is None else snr for snr in curve]
