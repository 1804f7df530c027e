"""The report: every table, claim and figure with its provenance in one page that needs no network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from qexp.results.html import render
from qexp.results.report.dots import Dots
from qexp.results.report.drawings import Pictures, Portrait, dot_charts, heat_maps, network, portraits
from qexp.results.report.heat import HeatMap
from qexp.results.report.lines import Chart, curves
from qexp.results.report.provenance import RunLine, Setting, facts, links, run_line, settings, shared
from qexp.results.section import MARKS, VERDICTS, Section, tally
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
    portrait: Portrait | None
    """Of the first run's network; cells that rest on one network share it."""


@dataclass(frozen=True)
class Chapter:
    """A section as the page shows it."""

    id: str
    section: Section
    notes: tuple[str, ...]
    panels: tuple[Panel, ...]
    shared: tuple[Setting, ...]
    curves: tuple[Chart, ...]
    heat_maps: Pictures[HeatMap]
    charts: Pictures[Dots]
    portraits: tuple[Portrait, ...] = ()

    @property
    def paper(self) -> str:
        """What the table is listed under."""
        return self.section.paper or "without a paper"


def to_report(sections: Sequence[Section]) -> str:
    """One self-contained HTML page; the same sections give the same page."""
    chapters = [chapter(one) for one in sections]
    claims = [(one, verdict) for one in chapters for verdict in one.section.verdicts]
    records = {record.cell_id for one in sections if one.table is not None for record in one.table.records}
    claims.sort(key=lambda claim: VERDICTS.index(claim[1].verdict))
    page = render(
        "report.html.j2",
        script="report.js",
        chapters=chapters,
        claims=claims,
        tally=tally(sections),
        marks=MARKS,
        records=len(records),
    )
    # A template's macros and its context are a cycle, which would keep everything for the collector to look through.
    chapters.clear()
    claims.clear()
    return page


def chapter(section: Section) -> Chapter:
    """Everything of a section; its verdicts and its note stand by themselves and are no notes."""
    name = re.sub(r"[^a-z0-9]+", "-", section.name.lower())
    table = section.table
    if table is None:
        return Chapter(name, section, (), (), (), (), Pictures(), Pictures())
    firsts = {cell.runs[0].record.cell_id: cell.runs[0].record for _, _, cell in _measured(table)}
    configs = {cell_id: settings(record) for cell_id, record in firsts.items()}
    common = shared(configs.values())
    drawn = portraits(table, name)
    apart = {*(verdict.line for verdict in table.verdicts), section.spec.note}
    return Chapter(
        id=name,
        section=section,
        notes=tuple(note for note in table.notes if note not in apart),
        panels=tuple(
            _panel(
                f"{name}-{y}-{x}",
                _title(table, y, x),
                cell,
                section,
                [one for one in configs[cell.runs[0].record.cell_id] if one not in common],
                drawn.get(network(cell.runs[0].record)),
            )
            for y, x, cell in _measured(table)
        ),
        shared=tuple(sorted(common)),
        curves=curves(table),
        heat_maps=heat_maps(table),
        charts=dot_charts(table),
        portraits=tuple(drawn.values()),
    )


def _measured(table: Table) -> list[tuple[int, int, Cell]]:
    """Row, column and cell of every cell with records, by which the template's buttons name what they open."""
    return [(y, x, cell) for y, row in enumerate(table.cells) for x, cell in enumerate(row) if cell.runs]


def _title(table: Table, y: int, x: int) -> str:
    labels = " · ".join(cell.text for cell in table.cells[y][: len(table.row_keys)])
    return f"{labels}, {table.headings[x].rstrip(' ↑↓')}"


def _panel(
    id: str, title: str, cell: Cell, section: Section, apart: Sequence[Setting], portrait: Portrait | None
) -> Panel:
    return Panel(
        id=id,
        title=title,
        cell=cell,
        runs=tuple(map(run_line, cell.runs)),
        facts=tuple(facts(cell.runs)),
        settings=tuple(apart),
        command=section.commands.get(cell.runs[0].record.cell_id, ""),
        links=tuple(links(cell.runs)),
        portrait=portrait,
    )
