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
    from qexp.results.ledger import Deviation
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
    from qexp.runner.identity import cell_id
    from qexp.runner.plan import load_table

    spec = load_table(name)
    found = {place: find(cell_id(config)) for place, config in cells.items()}
    made = made_table(name, spec, found, next(iter(cells.values())).scale, command)
    return replace(made, notes=(*made.notes, *ledger_note(ledger_of(name, spec, cells))))


def ledger_of(name: str, spec: TableConfig, cells: Cells) -> tuple[Deviation, ...]:
    """How ``cells`` differ from the same ones at ``scale=paper``, of one seed."""
    from qexp.results.ledger import deviations
    from qexp.runner.compose import to_dict
    from qexp.runner.plan import cells as cells_at

    seed = next(iter(cells))[0]
    paper = cells_at(name, ["scale=paper"], [seed])
    both = [{(x, y): to_dict(c) for (s, x, y), c in found.items() if s == seed} for found in (cells, paper)]
    columns = [column.label for column in spec.columns] or [""]
    return deviations(both[0], both[1], [row.title for row in spec.rows], columns)


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
    return with_origin(
        spec_table(name, places, library.find, make_command(name, scale, seeds)), library, str(results_dir)
    )


def with_origin(made: Table, library: Library, own: str) -> Table:
    """The table with a note of how many records are not the user's ``own``, where there are such."""
    used = sum(not library.is_own(record) for record in made.records)
    told = f"{used} of {len(made.records)} records are committed with qexp; the others are in {own}."
    return replace(made, notes=(*made.notes, told)) if used else made


def make_command(name: str, scale: str, seeds: list[int] | None = None) -> str:
    """What runs every experiment of the table that has no record yet."""
    return f"qexp reproduce {name} --scale {scale}" + (f" --seeds {','.join(map(str, seeds))}" if seeds else "")


def _missing(found: Found, command: str) -> list[str]:
    missing = sum(record is None for record in found.values())
    return [f"{missing} of {len(found)} experiments have no record yet; `{command}` makes them."] if missing else []
