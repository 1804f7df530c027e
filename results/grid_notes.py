"""What must stand under a table in a paper's shape: what was computed and ran, what is missing, and the verdicts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from qexp.conf.tables import TableConfig
from qexp.results.claims import Verdict
from qexp.results.collapse import is_constant
from qexp.results.columns import pretty, shown_setting
from qexp.results.notes import ONE_MEASUREMENT, SPREAD, scale_note, uncommitted_note
from qexp.results.schema import OWN, Record
from qexp.results.table import Cell

Body = Sequence[Sequence[Cell]]
Found = Mapping[tuple[int, int, int], Record | None]


def notes(spec: TableConfig, body: Body, found: Found, verdicts: Iterable[Verdict], command: str) -> tuple[str, ...]:
    """Definitions, what ran in integers, how to read it, the paper's figures, what is missing, verdicts, the scale."""
    records = {one.cell_id: one for one in found.values() if one is not None}.values()
    return (
        *_definitions(spec, body),
        *_settings(spec, body),
        *_by_row(spec, body),
        *_reading(spec, body),
        *_published(spec),
        *_unfinished(spec, found),
        *_collapsed(spec, found),
        *uncommitted_note(records),
        *_missing(found, command),
        *(verdict.line for verdict in verdicts),
        *scale_note(records),
        *filter(None, [spec.note]),
    )


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Texts in their order, each with the names that it holds for; empty texts are left out."""
    names: dict[str, dict[str, None]] = defaultdict(dict)
    for name, text in pairs:
        if text:
            names[text][name] = None
    return {text: list(listed) for text, listed in names.items()}


def _definitions(spec: TableConfig, body: Body) -> list[str]:
    pairs = ((column.label, row[x].definition) for x, column in enumerate(spec.columns) for row in body)
    return [f"{', '.join(names)}: {definition}" for definition, names in _grouped(pairs).items()]


def _settings(spec: TableConfig, body: Body) -> list[str]:
    """``Shown: float of Float; method integer of INT8, …``: where the column's figure does not say it already."""
    places = [x for x in range(len(body[0])) if x >= len(spec.columns) or spec.columns[x].figure in (None, OWN)]
    pairs = ((row.title, cells[x].setting) for row, cells in zip(spec.rows, body, strict=True) for x in places)
    shown = [f"{pretty(setting)} of {', '.join(names)}" for setting, names in _grouped(pairs).items()]
    return [f"Shown: {'; '.join(shown)}."] if shown else []


def _by_row(spec: TableConfig, body: Body) -> list[str]:
    """What ran for executed figures, each certificate once, with its rows."""
    pairs = ((row.title, cell.certificate) for row, cells in zip(spec.rows, body, strict=True) for cell in cells)
    return [f"{', '.join(names)}: {certificate}." for certificate, names in _grouped(pairs).items()]


def _reading(spec: TableConfig, body: Body) -> list[str]:
    summaries = [cell.summary for row in body for cell in row if cell.summary is not None]
    average = "average: the mean of the metrics in the other columns, seed by seed."
    return [
        *([average] if spec.average else []),
        *([ONE_MEASUREMENT if all(one.n == 1 for one in summaries) else SPREAD] if summaries else []),
    ]


def _published(spec: TableConfig) -> list[str]:
    """Where the paper's figures come from, and why there are none where there are none."""
    if spec.published is None:
        return []
    if spec.published.cells is None:
        return [f"No figures of the paper beside ours: {spec.published.reason}"]
    figures = [(f"{row} {column}", figure) for row, by in spec.published.cells.items() for column, figure in by.items()]
    sources = dict.fromkeys(figure.source for _, figure in figures if figure.value is not None)
    absent = _grouped((where, figure.reason) for where, figure in figures if figure.value is None)
    return [
        *([f"The paper's figures: {'; '.join(sources)}."] if sources else []),
        *(f"No figure of the paper for {', '.join(where)}: {reason}" for reason, where in absent.items()),
        *([f"No figure of the paper for the other cells: {spec.published.reason}"] if spec.published.reason else []),
    ]


def _unfinished(spec: TableConfig, found: Found) -> list[str]:
    return [
        f"{spec.rows[y].title}, {spec.columns[x].label}, seed={seed}: {record.status}"
        + (f" ({record.message})" if record.message else "")
        for (seed, x, y), record in found.items()
        if record is not None and record.status != "finished"
    ]


def _collapsed(spec: TableConfig, found: Found) -> list[str]:
    """Runs that score what one constant answer scores: they count, and it is said."""
    told = defaultdict(list)
    for (seed, x, y), record in found.items():
        row, column = spec.rows[y], spec.columns[x]
        if record is not None and is_constant(record, shown_setting(record, spec.figure(row, column)), column.metric):
            told[f"{row.title} on {column.label}"].append(str(seed))
    lines = [f"{place} (seed {', '.join(seeds)})" for place, seeds in told.items()]
    return [f"No better than one answer for every example: {', '.join(lines)}."] if lines else []


def _missing(found: Found, command: str) -> list[str]:
    missing = sum(record is None for record in found.values())
    if not missing:
        return []
    return [f"{missing} of {len(found)} measurements, one a cell and seed, have no record yet; `{command}` makes them."]
