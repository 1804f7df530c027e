"""Pictures of where a network's outliers sit: one overview of layers and sites, and per site layers × dimensions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qexp.conf.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

MAPPED_ROLES = ("attention_output", "attention_residual", "ffn_output", "ffn_residual")
"""Sites as wide as the residual stream, in which the outlier dimensions live; each gets a picture of its own."""
MAX_COLUMNS = 768
"""More dimensions than this share columns, each showing the largest of its group, so that none falls between pixels."""
LABEL_FACTOR = 6.0
"""A dimension is labelled where its maximum exceeds this many times the median dimension's of the same layer …"""
LABELS = 6
"""… and it is one of this many largest."""
DPI = 150


def write_heatmaps(outliers: Mapping[str, Any], folder: Path, title: str) -> dict[str, str]:
    """Draw ``outliers`` (a record's, with each site's ``per_dim_max``) as PNG files into ``folder``.

    Returns what was drawn -> file name: ``heatmap`` for the overview, ``heatmap.<role>`` for layers × dimensions of
    each of :data:`MAPPED_ROLES` and of the roles of the summary's infinity norm, where they are measured.

    Raises:
        UserError: if ``folder`` cannot be written.
    """
    by_role = layers_by_role(outliers["sites"])
    roles = dict.fromkeys((*MAPPED_ROLES, *outliers.get("summary", {}).get("inf_norm_roles", ())))
    written = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if by_role:
            written["heatmap"] = _save(_overview(by_role, title), folder / "heatmap.png")
        for role in roles:
            rows = [layer.get("per_dim_max") for layer in by_role.get(role, {}).values()]
            if rows and all(row and len(row) == len(rows[0]) for row in rows):
                figure = _dimensions(list(by_role[role]), rows, f"{title}: {role}")
                written[f"heatmap.{role}"] = _save(figure, folder / f"heatmap_{role}.png")
    except OSError as error:
        raise UserError(f"cannot write pictures to {folder}: {error.strerror}") from error
    return written


def layers_by_role(sites: Mapping[str, Any]) -> dict[str, dict[int, Any]]:
    """Role -> layer -> statistics, in forward order; sites outside of the layers are left out."""
    by_role: dict[str, dict[int, Any]] = {}
    for site in sites.values():
        if site["layer"] is not None:
            by_role.setdefault(site["role"], {})[site["layer"]] = site
    return by_role


def in_deviations(site: Mapping[str, Any]) -> float:
    """The largest magnitude in standard deviations of its tensor; NaN where one of them is not known or is 0."""
    return site["max_abs"] / site["std"] if site["std"] and site["max_abs"] is not None else math.nan


def _overview(by_role: Mapping[str, Mapping[int, Any]], title: str) -> Figure:
    """Sites × layers: the largest magnitude in standard deviations of its tensor, as colour and number."""
    import numpy as np

    layers = sorted({layer for found in by_role.values() for layer in found})
    values = np.full((len(by_role), len(layers)), np.nan)
    for row, found in enumerate(by_role.values()):
        for layer, site in found.items():
            values[row, layers.index(layer)] = in_deviations(site)
    figure, axes = _figure(2.6 + 0.42 * len(layers), 1.3 + 0.27 * len(by_role), f"{title}: max |x| / std")
    _image(figure, axes, values, "max |x| / std")
    axes.set_yticks(range(len(by_role)), list(by_role))
    axes.set_xticks(range(len(layers)), [str(layer) for layer in layers])
    axes.set_xlabel("layer")
    dark = np.nanmax(np.log(values), initial=0.0) * 0.6
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            ink = "white" if np.log(value) < dark else "black"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", size=7, color=ink)
    return figure


def _dimensions(layers: Sequence[int], rows: Sequence[Sequence[float]], title: str) -> Figure:
    """Layers × dimensions: the largest magnitude of each dimension, outlier dimensions labelled above."""
    import numpy as np

    values = np.asarray(rows, dtype=np.float64)
    width = -(-values.shape[1] // MAX_COLUMNS)
    figure, axes = _figure(11.0, 1.7 + 0.16 * max(len(layers), 4), title)
    shown = np.pad(values, ((0, 0), (0, -values.shape[1] % width))).reshape(len(rows), -1, width).max(axis=2)
    _image(figure, axes, shown, "max |x|", extent=(-0.5, shown.shape[1] * width - 0.5, len(rows) - 0.5, -0.5))
    every = -(-len(layers) // 12)
    axes.set_yticks(range(0, len(layers), every), [str(layer) for layer in layers[::every]])
    axes.set_ylabel("layer")
    axes.set_xlabel("dimension" + (f" (largest of each {width})" if width > 1 else ""))
    _label_outliers(axes, values)
    return figure


def _label_outliers(axes: Axes, values: Array) -> None:
    dims = outlier_dims(values)
    apart = values.shape[1] / 30
    axes.plot(dims, [-0.5] * len(dims), "v", color="#c1121f", markersize=5, clip_on=False)
    placed: list[int] = []
    for dim in dims:
        level = sum(abs(dim - other) < apart for other in placed)
        placed.append(dim)
        axes.annotate(str(dim), (dim, -0.5), (0, 5 + 9 * level), textcoords="offset points", ha="center", size=8)


def outlier_dims(values: Array) -> list[int]:
    """Dimensions whose maximum (``values``: [layers, dims]) stands out in some layer, the most extreme first."""
    import numpy as np

    median = np.median(values, axis=1, keepdims=True)
    factor = (values / np.where(median > 0, median, np.inf)).max(axis=0)
    order = np.argsort(-factor, kind="stable")[:LABELS]
    return [int(dim) for dim in order if factor[dim] > LABEL_FACTOR]


def make_figure(width: float, height: float, title: str) -> Figure:
    """A figure [inches] without pyplot: no global state, no window system, nothing to close."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, size=10)
    return figure


def _figure(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    figure = make_figure(width, height, title)
    return figure, figure.add_subplot()


def _image(figure: Figure, axes: Axes, values: Array, what: str, **position: Any) -> None:
    import numpy as np
    from matplotlib.colors import LogNorm

    positive = values[np.isfinite(values) & (values > 0)]
    low, high = (float(positive.min()), float(positive.max())) if positive.size else (0.1, 1.0)
    norm = LogNorm(low, max(high, low * 1.01), clip=True)
    image = axes.imshow(values, aspect="auto", cmap="viridis", norm=norm, interpolation="nearest", **position)
    figure.colorbar(image, ax=axes, label=what, pad=0.01)


def _save(figure: Figure, path: Path) -> str:
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    return path.name
