"""A table of ``qexp list tables`` from the records that are there: the user's own, else those committed beside qexp."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from qexp.conf.errors import UserError

if TYPE_CHECKING:
    from qexp.conf.schema import ExperimentConfig
    from qexp.conf.tables import TableConfig
    from qexp.results.grid import Found
    from qexp.results.ledger import Configs, Deviation
    from qexp.results.library import Library
    from qexp.results.schema import Record
    from qexp.results.table import Table

Cells = Mapping[tuple[int, int, int], "ExperimentConfig"]
"""The experiment of each seed, column and row."""
Find = Callable[[str], "Record | None"]
"""The record of a cell id, if there is one."""


def spec_table(name: str, cells: Cells, find: Find, command: str) -> Table:
    """The table ``name`` of its cells' records: in the paper's shape where it has columns, else a list of them.

    Raises:
        UserError: if a list of experiments has no record at all, or records do not fit the specification.
    """
    from qexp.results.ledger import ledger_note
    from qexp.runner.plan import cells as cells_at
    from qexp.runner.plan import ids, load_table

    spec = load_table(name)
    found = {place: find(cell) for place, cell in ids(cells).items()}
    made = made_table(name, spec, found, next(iter(cells.values())).scale, command)
    paper = cells_at(name, ["scale=paper"], [seed_of(cells)])
    return replace(made, notes=(*made.notes, *ledger_note(ledger_of(spec, cells, paper))))


def seed_of(cells: Cells) -> int:
    """The first of their seeds."""
    return next(iter(cells))[0]


def ledger_of(spec: TableConfig, cells: Cells, paper: Cells) -> tuple[Deviation, ...]:
    """How ``cells`` differ from those at ``scale=paper``, of their first seed."""
    from qexp.results.ledger import deviations

    seed = seed_of(cells)
    columns = [column.label for column in spec.columns] or [""]
    return deviations(_leaves(cells, seed), _leaves(paper, seed), [row.title for row in spec.rows], columns)


def _leaves(cells: Cells, seed: int) -> Configs:
    """The leaves of each cell's configuration; cells that share one share them."""
    from qexp.results.select import labelled
    from qexp.runner.compose import to_dict

    chosen = {(x, y): config for (s, x, y), config in cells.items() if s == seed}
    apart = {id(config): config for config in chosen.values()}
    leaves = {key: labelled(to_dict(config)) for key, config in apart.items()}
    return {place: leaves[id(config)] for place, config in chosen.items()}


def made_table(name: str, spec: TableConfig, found: Found, scale: str, command: str) -> Table:
    """:func:`spec_table` of records that are found already."""
    from qexp.results import grid, table

    if spec.columns:
        return grid.build(spec, found, scale=scale, command=command)
    records = [record for record in found.values() if record is not None]
    if not records:
        raise UserError(f"table {name} has no record yet; `{command}` makes them")
    built = table.build(records)
    notes = (*built.notes, *_missing(found, command), *filter(None, [spec.note]))
    return replace(built, caption=f"{spec.title} ({built.caption})", notes=notes)


def stored_table(name: str, results_dir: Path, scale: str, seeds: list[int] | None) -> Table:
    """The table ``name`` without running anything, and how many of its records are the committed ones."""
    from qexp.results.library import Library, committed
    from qexp.runner.plan import cells

    library = Library(results_dir, committed())
    places = cells(name, [f"scale={scale}"], seeds)
    made = spec_table(name, places, library.find, make_command(name, scale, seeds))
    return with_origin(_with_stale(made, places, library), library, str(results_dir))


def _with_stale(made: Table, places: Cells, library: Library) -> Table:
    """The table with a note of the user's records that an older version of a recipe made, where there are such."""
    from qexp.runner.agenda import STALE, make_agenda

    stale = make_agenda({"": places}, library.own).counts()[STALE]
    told = f"{stale} of the missing experiments have a record of another recipe version, which is not used."
    return replace(made, notes=(*made.notes, told)) if stale else made


def with_origin(made: Table, library: Library, own: str) -> Table:
    """The table with a note of how many records are not the user's ``own``, where there are such."""
    used = sum(not library.is_own(record) for record in made.records)
    others = f"; the others are in {own}" if used < len(made.records) else ""
    told = f"{used} of {len(made.records)} records are committed with qexp{others}."
    return replace(made, notes=(*made.notes, told)) if used else made


def make_command(name: str, scale: str, seeds: list[int] | None = None) -> str:
    """What runs every experiment of the table that has no record yet."""
    return f"qexp reproduce {name} --scale {scale}" + (f" --seeds {','.join(map(str, seeds))}" if seeds else "")


def _missing(found: Found, command: str) -> list[str]:
    missing = sum(record is None for record in found.values())
    return [f"{missing} of {len(found)} experiments have no record yet; `{command}` makes them."] if missing else []
