"""Pictures drawn from what the records of a table hold: side by side under it, and of each network by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from qexp.results.report.dots import Dots, charts
from qexp.results.report.heat import HeatMap, dimension_maps, heat_map
from qexp.results.schema import Record
from qexp.results.table import Table

MOST = 6
"""Pictures of a kind that are shown under a table; how many there are is said."""
Picture = TypeVar("Picture")


@dataclass(frozen=True)
class Pictures(Generic[Picture]):
    """Those that are shown, and how many there are."""

    shown: tuple[Picture, ...] = ()
    of: int = 0


@dataclass(frozen=True)
class Portrait:
    """All that was measured of one trained network: what the figures that rest on it show of it."""

    id: str
    sites: HeatMap | None
    dimensions: tuple[HeatMap, ...]
    charts: tuple[Dots, ...]


def heat_maps(table: Table) -> Pictures[HeatMap]:
    """One heat map for each network whose outliers were measured, of its first seed."""
    measured = [(label, record.outliers) for label, record in _networks(table) if record.outliers.get("sites")]
    drawn = (heat_map(label, outliers) for label, outliers in measured[:MOST])
    return Pictures(tuple(one for one in drawn if one is not None), len(measured))


def dot_charts(table: Table) -> Pictures[Dots]:
    """The charts of each network, of its first seed."""
    found = [
        chart
        for label, record in _networks(table)
        for method, told in record.analysis.items()
        for chart in charts(f"{label}: {method}", told)
    ]
    return Pictures(tuple(found[:MOST]), len(found))


def portraits(table: Table, prefix: str) -> dict[tuple[object, ...], Portrait]:
    """A portrait of each network of which something was measured, by its :func:`network`."""
    drawn = {}
    for number, (_, record) in enumerate(_networks(table)):
        sites = heat_map("largest magnitude in standard deviations", record.outliers)
        dimensions = tuple(dimension_maps(record.outliers))
        found = tuple(chart for method, told in record.analysis.items() for chart in charts(method, told))
        if sites or dimensions or found:
            drawn[network(record)] = Portrait(f"{prefix}-network-{number}", sites, dimensions, found)
    return drawn


def network(record: Record) -> tuple[object, ...]:
    """What a trained network and what was measured of it are told apart by."""
    return (record.provenance.get("training_id", record.cell_id), *record.analysis, bool(record.outliers))


def _networks(table: Table) -> Iterator[tuple[str, Record]]:
    """The first run of each cell with the cell's name, each network once."""
    seen: set[tuple[object, ...]] = set()
    for row in table.cells:
        for heading, cell in zip(table.headings[table.labels :], row[table.labels :], strict=True):
            if not cell.runs or network(record := cell.runs[0].record) in seen:
                continue
            seen.add(network(record))
            name = " · ".join(label.text for label in row[: len(table.row_keys)])
            yield f"{name}, {heading.rstrip(' ↑↓')}, seed {record.config.get('seed')}", record
