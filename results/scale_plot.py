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
LOSSY = ("fp16", "fp8")
"""Formats whose losses have a panel."""
STROKES = ("-", "--", ":")
"""Of the formats, in their order."""
HEIGHT_OF_A_PLACE = 0.15
LOWEST = 2.0**-40
"""Where scales below are drawn, zero among them."""


def draw_scales(analysis: Mapping[str, Any], path: Path, title: str) -> None:
    """One row a place, the first at the top, on a logarithmic axis, as a PNG file.

    ``analysis``: ``band`` (smallest and largest scale of no concern), ``initial`` (place -> kind -> standard
    deviation), and where they are known ``trained``, of the same form, ``casting`` (``exponents`` of 2, and ``snr_db``
    of each format) and ``scales`` (place -> kind -> for ``fp16`` and ``fp8`` the shares ``underflow`` and
    ``overflow``).
    """
    panels = {name: analysis[name] for name in ("initial", "trained") if analysis.get(name)}
    places, noise, lost = list(panels["initial"]), analysis.get("casting"), analysis.get("scales")
    heights = [1.2 + HEIGHT_OF_A_PLACE * len(places), *([2.0] if noise else [])]
    widths = [5.0] * len(panels) + [2.0] * (len(LOSSY) if lost else 0)
    figure = make_figure(2.5 + sum(widths), sum(heights) + 0.8, title)
    ratios: dict[str, Any] = {"height_ratios": heights, "width_ratios": widths}
    grid = figure.subplots(len(heights), len(widths), sharex="col", squeeze=False, **ratios)
    for axes, (name, scales) in zip(grid[0], panels.items(), strict=False):
        _places(axes, places, scales, analysis["band"])
        axes.set_title("at initialisation" if name == "initial" else "after training", size=9)
    for axes, name in zip(grid[0][len(panels) :], LOSSY, strict=False):
        _lost(axes, places, lost or {}, name)
    grid[0][0].set_yticks(range(len(places)), places, size=6)
    for axes in grid[0][1:]:
        axes.set_yticks(range(len(places)), [])
    _below(grid, len(panels), noise)
    columns = 3 * len(panels)
    handles = grid[0][0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
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


def _lost(axes: Axes, places: list[str], scales: Mapping[str, Any], name: str) -> None:
    """Shares of each tensor's elements that a format loses: filled those that underflow, hollow those beyond it."""
    for kind, (_, colour, marker) in MARKS.items():
        cast = [
            (scales[place][kind][name], row) for row, place in enumerate(places) if name in scales[place].get(kind, ())
        ]
        for loss, face in (("underflow", colour), ("overflow", "none")):
            shares = [(100 * found[loss], row) for found, row in cast if found[loss] > 0]
            if shares:
                style: dict[str, Any] = {"color": colour, "markerfacecolor": face, "markersize": 3.5}
                axes.plot(*zip(*shares, strict=True), marker, linestyle="none", **style)
    axes.set_title(f"{name.upper()}: % under, beyond (hollow)", size=8)
    axes.set_xlim(-5, 105)
    axes.set_ylim(len(places) - 0.4, -0.6)
    axes.grid(color="0.9", linewidth=0.5)
    axes.set_axisbelow(True)


def _below(grid: Any, panels: int, noise: Mapping[str, Any] | None) -> None:
    """What stands below the ``panels`` of scales, on their axis: signal to noise, where it is known; and its labels."""
    from matplotlib.ticker import LogLocator

    for axes in grid[-1][:panels]:
        if noise:
            _casting(axes, noise)
        axes.set_xlabel("standard deviation")
        axes.xaxis.set_major_locator(LogLocator(base=16))
    for axes in grid[1:, panels:].flat:
        axes.set_visible(False)
    for axes in grid[0][panels:]:
        axes.set_xlabel("% of elements")
        axes.tick_params(labelbottom=True)


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
