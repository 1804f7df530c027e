"""Heat maps as tables of numbers with colours: of a network's sites, and of the hidden dimensions of its outliers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from qexp.results.heatmap import MAPPED_ROLES, in_deviations, layers_by_role

LEVELS = 9
"""Steps of a heat map's colour, five a decade of deviations from 4 up, two a decade of counts."""
MOST_DIMENSIONS = 8
"""Columns of a map of dimensions: those with the most outliers in all layers together."""


@dataclass(frozen=True)
class Heat:
    """One number of a heat map, and the step of its colour."""

    value: str
    level: int


@dataclass(frozen=True)
class HeatMap:
    label: str
    corner: str
    """What rows and columns are."""
    columns: tuple[int, ...]
    rows: tuple[tuple[str, tuple[Heat | None, ...]], ...]
    """Name, and one entry a column."""
    words: str
    """What the map shows, for those who do not see it."""


def heat_map(label: str, outliers: Mapping[str, Any]) -> HeatMap | None:
    """Roles × layers: the largest magnitude in standard deviations of its tensor; None where no site was measured."""
    by_role = layers_by_role(outliers.get("sites") or {})
    layers = sorted({layer for found in by_role.values() for layer in found})
    known = {
        (role, layer): value
        for role, found in by_role.items()
        for layer, site in found.items()
        if math.isfinite(value := in_deviations(site))
    }
    rows = [(role, tuple(_deviations(known.get((role, layer))) for layer in layers)) for role in by_role]
    if not rows:
        return None
    words = f"Largest magnitude at {len(rows)} sites of {len(layers)} layers, in standard deviations"
    if known:
        role, layer = max(known, key=lambda place: known[place])
        words += f": from {min(known.values()):.0f} to {known[role, layer]:.0f}, at {role} of layer {layer}"
    return HeatMap(label, "site, layer", tuple(layers), tuple(rows), f"{words}.")


def _deviations(value: float | None) -> Heat | None:
    if value is None:
        return None
    level = math.floor(5 * math.log10(value / 4)) + 1 if value > 0 else 0
    return Heat(f"{value:.0f}", max(0, min(LEVELS, level)))


def dimension_maps(outliers: Mapping[str, Any]) -> Iterator[HeatMap]:
    """Layers × hidden dimensions, for each kind of site as wide as the residual stream: how many outliers each holds.

    A record keeps the dimensions with the most outliers of each site. One that is not among them is left empty, which
    is not zero.
    """
    for role, found in layers_by_role(outliers.get("sites") or {}).items():
        counts = {layer: dict(site.get("outlier_dims") or ()) for layer, site in found.items()}
        together = Counter[int]()
        for one in counts.values():
            together.update(one)
        if role in MAPPED_ROLES and together:
            columns = tuple(sorted(dim for dim, _ in together.most_common(MOST_DIMENSIONS)))
            rows = tuple((str(layer), tuple(_count(one.get(dim)) for dim in columns)) for layer, one in counts.items())
            yield HeatMap(role, "layer, dimension", columns, rows, _most(role, together, counts))


def _count(count: int | None) -> Heat | None:
    return Heat(f"{count:,}", min(LEVELS, math.floor(2 * math.log10(count)))) if count else None


def _most(role: str, together: Counter[int], counts: Mapping[int, Mapping[int, int]]) -> str:
    (dim, number), *_ = together.most_common(1)
    share = number / together.total()
    layers = sum(dim in one for one in counts.values())
    return (
        f"Outliers of {role} by layer and hidden dimension: dimension {dim} holds {share:.0%} of those that are "
        f"counted, and has some in {layers} of {len(counts)} layers."
    )
