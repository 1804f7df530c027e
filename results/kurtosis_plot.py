"""Kurtosis of each weight tensor before and after training with a kurtosis penalty, and which the penalty acted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qexp.results.heatmap import DPI, make_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BEFORE, AFTER, LEFT_OUT = "#c1121f", "#1d6996", "0.5"
"""Colours of a tensor before and after, and of one that the penalty left out; told apart by shape and filling too."""
HEIGHT_OF_A_TENSOR = 0.17
LARGE_SHARE = 0.01
"""Shares of the penalty from here on are written beside their tensor."""


def draw_kurtosis(analysis: Mapping[str, Any], path: Path, title: str) -> None:
    """One row a tensor, the largest kurtosis at the top, on a logarithmic axis, as a PNG file.

    ``analysis``: ``target``, and ``tensors``, by name ``before`` and ``after`` (None where constant), ``selected``, and
    ``share`` of the squared penalty before training if all tensors were selected.
    """
    tensors = {name: t for name, t in analysis["tensors"].items() if t["before"] is not None}
    names = sorted(tensors, key=lambda name: -tensors[name]["before"])
    rows = [tensors[name] for name in names]
    figure = make_figure(9.0, 1.6 + HEIGHT_OF_A_TENSOR * len(rows), title)
    axes = figure.add_subplot()
    _logarithmic(axes)
    axes.axvline(analysis["target"], color="0.3", linestyle="--", linewidth=1, label=f"target {analysis['target']:g}")
    _tensors(axes, rows)
    _names(axes, names, rows)
    axes.set_xlabel("kurtosis (log); in %: share of the squared penalty, were no tensor left out")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    figure.savefig(path, dpi=DPI, metadata={"Software": None})


def _logarithmic(axes: Axes) -> None:
    """A logarithmic axis labelled 1, 2, 5, 10, …, so that one decade has labels too."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())


def _tensors(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """For each tensor the figure before and after, joined by a line; hollow where the penalty left it out."""
    for row, tensor in enumerate(rows):
        if tensor["after"] is not None:
            axes.plot([tensor["before"], tensor["after"]], [row, row], color="0.8", zorder=1)
    for form, colour, marker in (("before", BEFORE, "s"), ("after", AFTER, "o")):
        for selected, suffix in ((True, ""), (False, ", left out")):
            style: dict[str, Any] = {
                "color": colour,
                "markerfacecolor": colour if selected else "white",
                "markersize": 4.5,
            }
            known = [(t[form], i) for i, t in enumerate(rows) if t["selected"] == selected and t[form] is not None]
            if known:
                axes.plot(*zip(*known, strict=True), marker, linestyle="none", label=form + suffix, **style)


def _names(axes: Axes, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Names on the left, grey for tensors left out, and large shares of the penalty beside them."""
    axes.set_yticks(range(len(names)), [name.removesuffix("_weight") for name in names], size=7)
    axes.set_ylim(len(names) - 0.4, -0.6)
    for label, tensor in zip(axes.get_yticklabels(), rows, strict=True):
        if not tensor["selected"]:
            label.set_color(LEFT_OUT)
    for row, tensor in enumerate(rows):
        if tensor["share"] >= LARGE_SHARE:
            right = max(k for k in (tensor["before"], tensor["after"]) if k is not None)
            text = f"{100 * tensor['share']:.0f} %"
            axes.annotate(text, (right, row), (6, 0), textcoords="offset points", va="center", size=7)
    axes.grid(axis="x", which="major", color="0.9")
    axes.set_axisbelow(True)
    axes.margins(x=0.08)
