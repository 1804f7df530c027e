"""The report: every table, claim and figure with its provenance in one page that needs no network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from qexp.results.html import render
from qexp.results.report.drawings import Dots, HeatMap, dot_charts, heat_maps
from qexp.results.report.provenance import RunLine, Setting, facts, links, own_settings, run_line, shared_settings
from qexp.results.section import MARKS, Section, tally
from qexp.results.table import Cell, Table


@dataclass(frozen=True)
class Panel:
    """What a figure opens."""

    id: str
    title: str
    cell: Cell
    runs: tuple[RunLine, ...]
    facts: tuple[tuple[str, str], ...]
    settings: tuple[Setting, ...]
    """Those of the configuration that not all cells of the table share."""
    command: str
    links: tuple[str, ...]


@dataclass(frozen=True)
class Chapter:
    """A section as the page shows it."""

    id: str
    section: Section
    notes: tuple[str, ...]
    panels: tuple[Panel, ...]
    shared: tuple[Setting, ...]
    heat_maps: tuple[HeatMap, ...]
    charts: tuple[Dots, ...]

    @property
    def paper(self) -> str:
        return self.section.paper.replace("_", " ").capitalize() or "Other"


def to_report(sections: Sequence[Section]) -> str:
    """One self-contained HTML page; the same sections give the same page."""
    records = {record.cell_id for one in sections if one.table for record in one.table.records}
    return render(
        "report.html.j2",
        script="report.js",
        chapters=[chapter(one) for one in sections],
        tally=tally(sections),
        marks=MARKS,
        records=len(records),
    )


def chapter(section: Section) -> Chapter:
    """Everything of a section; its verdicts are shown by themselves and are no notes."""
    name = re.sub(r"[^a-z0-9]+", "-", section.name.lower())
    table = section.table
    if table is None:
        return Chapter(name, section, (), (), (), (), ())
    shared = shared_settings(cell for row in table.cells for cell in row)
    apart = {*(verdict.line for verdict in table.verdicts), section.spec.note}
    return Chapter(
        id=name,
        section=section,
        notes=tuple(note for note in table.notes if note not in apart),
        panels=tuple(_panels(name, section, table, shared)),
        shared=tuple(shared),
        heat_maps=tuple(heat_maps(table)),
        charts=tuple(dot_charts(table)),
    )


def _panels(name: str, section: Section, table: Table, shared: Sequence[Setting]) -> list[Panel]:
    """One for each cell with records; the ids are those that the template's buttons name."""
    return [
        _panel(f"{name}-{y}-{x}", f"{_label(table, row)}, {table.headings[x].rstrip(' ↑↓')}", cell, section, shared)
        for y, row in enumerate(table.cells)
        for x, cell in enumerate(row)
        if cell.runs
    ]


def _label(table: Table, row: Sequence[Cell]) -> str:
    return " · ".join(cell.text for cell in row[: len(table.row_keys)])


def _panel(id: str, title: str, cell: Cell, section: Section, shared: Sequence[Setting]) -> Panel:
    return Panel(
        id=id,
        title=title,
        cell=cell,
        runs=tuple(map(run_line, cell.runs)),
        facts=tuple(facts(cell.runs)),
        settings=tuple(own_settings(cell, shared)),
        command=section.commands.get(cell.runs[0].record.cell_id, ""),
        links=tuple(links(cell.runs)),
    )
