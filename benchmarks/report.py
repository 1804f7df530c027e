"""What 2,000 records cost: reading them, making 20 tables of them, and the page with all of it.

The records are copies of committed ones, so that certificates, curves and sites have their real size. Composing the
tables' configurations is no part of it.

Run with: python benchmarks/report.py
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from measure import Report, absolute, by_turns, seconds

from qexp.conf.tables import ClaimConfig, ColumnConfig, RowConfig, TableConfig
from qexp.results import grid
from qexp.results.library import REFERENCE, Library
from qexp.results.report.page import to_report
from qexp.results.schema import Record
from qexp.results.section import Section
from qexp.results.store import Store, collector_paused, to_json

TABLES, ROWS, COLUMNS, SEEDS = 20, 10, 5, 2
MOULD = "outlier_int8.gamma"
"""Committed records with everything that a record may hold: sites, an analysis, a certificate, a curve."""


def spec() -> TableConfig:
    claims = tuple(
        ClaimConfig(name=f"claim_{y}", text="One is better", kind="greater", row=f"row {y}", than="row 0")
        for y in range(1, 4)
    )
    return TableConfig(
        title="Made-up figures",
        rows=tuple(RowConfig(label=f"row {y}", figure="method") for y in range(ROWS)),
        columns=tuple(ColumnConfig(label=f"column {x}") for x in range(COLUMNS)),
        claims=claims,
    )


def places() -> list[tuple[int, int, int]]:
    return [(seed, x, y) for seed in range(SEEDS) for x in range(COLUMNS) for y in range(ROWS)]


def cell(table: int, place: tuple[int, int, int]) -> str:
    return f"{table:04x}" + "".join(f"{number:04x}" for number in place)


def write(root: Path) -> None:
    """2,000 records below ``root``, in one folder a table."""
    moulds = [record for record in Store(REFERENCE / MOULD).query() if record.metrics]
    for table in range(TABLES):
        folder = root / f"table{table}"
        folder.mkdir()
        for number, place in enumerate(places()):
            (folder / f"{cell(table, place)}.json").write_text(
                to_json(_copy(moulds[number % len(moulds)], cell(table, place), table, place)), encoding="utf-8"
            )


def _copy(mould: Record, identity: str, table: int, place: tuple[int, int, int]) -> Record:
    config: dict[str, Any] = {**mould.config, "seed": place[0], "table": f"table{table}"}
    network = {"training_id": f"{table}/{place[2]}", "seed": place[0]}
    return replace(mould, cell_id=identity, config=config, provenance={**mould.provenance, **network})


def sections(library: Library) -> list[Section]:
    made = []
    for table in range(TABLES):
        found = {place: library.find(cell(table, place)) for place in places()}
        commands = {record.cell_id: "qexp run" for record in found.values() if record is not None}
        built = grid.build(spec(), found, scale="small", command="qexp reproduce")
        made.append(Section(f"paper{table % 5}/t{table}", spec(), "small", "qexp reproduce", built, (), commands))
    return made


def measure(turns: int = 5) -> Report:
    with tempfile.TemporaryDirectory() as folder, collector_paused():
        write(Path(folder))
        library = Library(Path(folder))
        made = sections(library)
        size = len(to_report(made).encode()) / 1e6
        steps = {
            "reading": lambda: seconds(lambda: Library(Path(folder))),
            "tables": lambda: seconds(lambda: sections(library)),
            "page": lambda: seconds(lambda: to_report(made)),
        }
        figures = by_turns(steps, turns)
    figures["all"] = [sum(one) for one in zip(*figures.values(), strict=True)]
    limits = {"reading": 3.0, "tables": 1.0, "page": 1.0, "all": 5.0}
    told = f"2,000 records, a page of {size:.1f} MB"
    return Report([absolute(f"{step}: {told}", figures[step], "none", limits[step]) for step in figures])


if __name__ == "__main__":
    print(*measure().results, sep="\n")
