"""Pictures drawn from what records hold: outlier heat maps, and figures of tensors before and after, as shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from qexp.results.heatmap import in_deviations, layers_by_role
from qexp.results.schema import Record
from qexp.results.split_plot import short_names
from qexp.results.table import Table

LEVELS = 9
"""Steps of a heat map's colour, five a decade from 4 standard deviations up."""
WIDTH, LABEL_WIDTH, ROW = 640.0, 250.0, 14.0
"""Of a chart of dots, in SVG units; the labels on the left, the height of a tensor."""


MOST = 6
"""Pictures of a kind that are shown of one table; how many there are is said."""
Picture = TypeVar("Picture")


@dataclass(frozen=True)
class Heat:
    """One number of a heat map, and the step of its colour."""

    value: str
    level: int


@dataclass(frozen=True)
class HeatMap:
    label: str
    layers: tuple[int, ...]
    rows: tuple[tuple[str, tuple[Heat | None, ...]], ...]
    """Role of the sites, and one entry a layer."""


@dataclass(frozen=True)
class Dot:
    x: float
    series: int
    value: str


@dataclass(frozen=True)
class Dots:
    """A chart with one line a tensor, on which each series has a mark of its own shape."""

    label: str
    axis: str
    series: tuple[str, ...]
    lines: tuple[tuple[str, tuple[Dot, ...]], ...]
    ticks: tuple[tuple[float, str], ...]
    words: str


@dataclass(frozen=True)
class Pictures(Generic[Picture]):
    """Those that are shown, and how many there are."""

    shown: tuple[Picture, ...] = ()
    of: int = 0


def heat_map(label: str, outliers: Mapping[str, Any]) -> HeatMap | None:
    """Roles × layers: the largest magnitude in standard deviations of its tensor; None where no site was measured."""
    by_role = layers_by_role(outliers.get("sites") or {})
    layers = sorted({layer for found in by_role.values() for layer in found})
    rows = [(role, tuple(_heat(found.get(layer)) for layer in layers)) for role, found in by_role.items()]
    return HeatMap(label, tuple(layers), tuple(rows)) if rows else None


def _heat(site: Mapping[str, Any] | None) -> Heat | None:
    value = in_deviations(site) if site is not None else math.nan
    if not math.isfinite(value):
        return None
    level = math.floor(5 * math.log10(value / 4)) + 1 if value > 0 else 0
    return Heat(f"{value:.0f}", max(0, min(LEVELS, level)))


def kurtosis_dots(label: str, analysis: Mapping[str, Any]) -> Dots | None:
    """Kurtosis of each weight before and after training, the largest first."""
    tensors = sorted(analysis["tensors"].items(), key=lambda item: -(item[1]["before"] or 0.0))
    lines = [(name.removesuffix("_weight"), [one["before"], one["after"]]) for name, one in tensors]
    return _dots(label, "kurtosis of weights (log)", ("before training", "after training"), lines, log=True)


def split_dots(label: str, analysis: Mapping[str, Any]) -> Dots | None:
    """Signal to noise of each linear layer's product, its input in one tensor and with outliers apart."""
    layers = analysis["layers"]
    names = short_names([one["name"] for one in layers])
    pairs = [[one["sqnr_db"]["whole"], one["sqnr_db"]["split"]] for one in layers]
    lines = list(zip(names, pairs, strict=True))
    return _dots(label, "SQNR of the product [dB]", ("one tensor", "outliers apart"), lines, log=False)


def scale_dots(label: str, analysis: Mapping[str, Any]) -> Dots | None:
    """Standard deviations of weights, activations and gradients at initialisation."""
    kinds = ("weight", "activation", "gradient")
    lines = [(place, [scales.get(kind) for kind in kinds]) for place, scales in analysis["initial"].items()]
    names = ("weights", "activations", "gradients of activations")
    return _dots(label, "standard deviation at initialisation (log)", names, lines, log=True)


KINDS: dict[str, Callable[[str, Mapping[str, Any]], Dots | None]] = {
    "outlier_split": split_dots,
    "tensor_scales": scale_dots,
    "weight_kurtosis": kurtosis_dots,
}
"""Kind of an analysis -> what draws it."""


def _dots(
    label: str, axis: str, series: Sequence[str], lines: Sequence[tuple[str, Sequence[float | None]]], *, log: bool
) -> Dots | None:
    def usable(value: float | None) -> bool:
        return value is not None and math.isfinite(value) and (value > 0 or not log)

    scale = math.log10 if log else float
    known = [value for _, values in lines for value in values if value is not None and usable(value)]
    if not known:
        return None
    low, high = scale(min(known)), scale(max(known))

    def x(value: float) -> float:
        return round(LABEL_WIDTH + 8 + (WIDTH - LABEL_WIDTH - 20) * (scale(value) - low) / (high - low or 1.0), 1)

    drawn = [
        (
            name,
            tuple(Dot(x(v), i, f"{v:.3g}") for i, v in enumerate(values) if v is not None and usable(v)),
        )
        for name, values in lines
    ]
    middle = (low + high) / 2
    ticks = [(10**at if log else at) for at in dict.fromkeys((low, middle, high))]
    ranges = [_range(name, [v for _, values in lines if (v := values[i]) is not None]) for i, name in enumerate(series)]
    words = f"{axis} of {len(lines)} tensors: {'; '.join(filter(None, ranges))}"
    return Dots(label, axis, tuple(series), tuple(drawn), tuple((x(at), f"{at:.3g}") for at in ticks), words)


def _range(name: str, values: Sequence[float]) -> str:
    return f"{name} from {min(values):.3g} to {max(values):.3g}" if values else ""


def heat_maps(table: Table) -> Pictures[HeatMap]:
    """One heat map for each network whose outliers were measured, of its first seed."""
    found = (heat_map(label, record.outliers) for label, record in _networks(table) if record.outliers)
    return _pictures([one for one in found if one is not None])


def dot_charts(table: Table) -> Pictures[Dots]:
    """One chart for each analysis that can be drawn, of the first seed."""
    found = (
        draw(f"{label}: {method}", told)
        for label, record in _networks(table)
        for method, told in record.analysis.items()
        if (draw := KINDS.get(told.get("kind", "")))
    )
    return _pictures([one for one in found if one is not None])


def _pictures(found: Sequence[Picture]) -> Pictures[Picture]:
    return Pictures(tuple(found[:MOST]), len(found))


def _networks(table: Table) -> Iterator[tuple[str, Record]]:
    """The first run of each cell with the cell's name, each trained network and what was measured of it once."""
    seen: set[tuple[object, ...]] = set()
    for row in table.cells:
        for heading, cell in zip(table.headings[table.labels :], row[table.labels :], strict=True):
            if not cell.runs:
                continue
            record = cell.runs[0].record
            network = (record.provenance.get("training_id", record.cell_id), *record.analysis, bool(record.outliers))
            if network not in seen:
                seen.add(network)
                name = " · ".join(label.text for label in row[: len(table.row_keys)])
                yield f"{name}, {heading.rstrip(' ↑↓')}, seed {record.config.get('seed')}", record
