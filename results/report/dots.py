"""What methods measured of themselves, as charts of dots: a line a tensor, one mark for each of its figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qexp.results.split_plot import short_names

WIDTH, LABEL_WIDTH = 640.0, 250.0
"""Of a chart, in SVG units, and of the names on its left."""
BEFORE_AFTER = ("before training", "after training")
Lines = Sequence[tuple[str, Sequence[float | None]]]
"""Name of each tensor, and one figure a series."""


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


def charts(label: str, analysis: Mapping[str, Any]) -> Iterator[Dots]:
    """The charts of one analysis, by the ``kind`` that it names; none of a kind that has no chart."""
    draw = KINDS.get(analysis.get("kind", ""))
    return filter(None, draw(label, analysis)) if draw else iter(())


def kurtosis_dots(label: str, analysis: Mapping[str, Any]) -> Iterator[Dots | None]:
    """Kurtosis of each weight before and after training, the largest first."""
    tensors = sorted(analysis["tensors"].items(), key=lambda item: -(item[1]["before"] or 0.0))
    lines = [(name.removesuffix("_weight"), [one["before"], one["after"]]) for name, one in tensors]
    yield dots(label, "kurtosis of weights (log)", BEFORE_AFTER, lines, log=True)


def split_dots(label: str, analysis: Mapping[str, Any]) -> Iterator[Dots | None]:
    """Signal to noise of each linear layer's product, its input in one tensor and with outliers apart."""
    layers = analysis["layers"]
    names = short_names([one["name"] for one in layers])
    pairs = [[one["sqnr_db"]["whole"], one["sqnr_db"]["split"]] for one in layers]
    lines = list(zip(names, pairs, strict=True))
    yield dots(label, "SQNR of the product [dB]", ("one tensor", "outliers apart"), lines, log=False)


def scale_dots(label: str, analysis: Mapping[str, Any]) -> Iterator[Dots | None]:
    """Standard deviations at initialisation, then of weights and activations before and after training."""
    kinds = {"weight": "weights", "activation": "activations", "gradient": "gradients of activations"}
    initial, trained = analysis["initial"], analysis.get("trained") or {}
    lines = [(place, [scales.get(kind) for kind in kinds]) for place, scales in initial.items()]
    yield dots(label, "standard deviation at initialisation (log)", tuple(kinds.values()), lines, log=True)
    for kind in ("weight", "activation"):
        pairs = [(place, [initial[place].get(kind), now[kind]]) for place, now in trained.items() if kind in now]
        yield dots(label, f"standard deviation of {kinds[kind]} (log)", BEFORE_AFTER, pairs, log=True)


KINDS: dict[str, Callable[[str, Mapping[str, Any]], Iterator[Dots | None]]] = {
    "outlier_split": split_dots,
    "tensor_scales": scale_dots,
    "weight_kurtosis": kurtosis_dots,
}
"""Kind of an analysis -> what draws it."""


def dots(label: str, axis: str, series: Sequence[str], lines: Lines, *, log: bool) -> Dots | None:
    """The chart; a figure that is missing or not finite (not positive, on a logarithmic axis) has no mark.

    None where no figure is left.
    """
    kept = [(name, [value if _usable(value, log) else None for value in values]) for name, values in lines]
    known = [value for _, values in kept for value in values if value is not None]
    if not known:
        return None
    scale = math.log10 if log else float
    low, high = scale(min(known)), scale(max(known))

    def x(place: float) -> float:
        return round(LABEL_WIDTH + 8 + (WIDTH - LABEL_WIDTH - 20) * (place - low) / (high - low or 1.0), 1)

    drawn = [
        (name, tuple(Dot(x(scale(v)), i, f"{v:.3g}") for i, v in enumerate(values) if v is not None))
        for name, values in kept
    ]
    ticks = [(x(at), f"{10**at if log else at:.3g}") for at in dict.fromkeys((low, (low + high) / 2, high))]
    ranges = [_range(name, [v for _, values in kept if (v := values[i]) is not None]) for i, name in enumerate(series)]
    words = f"{axis} of {len(lines)} tensors: {'; '.join(filter(None, ranges))}"
    return Dots(label, axis, tuple(series), tuple(drawn), tuple(ticks), words)


def _usable(value: float | None, log: bool) -> bool:
    return value is not None and math.isfinite(value) and (value > 0 or not log)


def _range(name: str, values: Sequence[float]) -> str:
    return f"{name} from {min(values):.3g} to {max(values):.3g}" if values else ""
