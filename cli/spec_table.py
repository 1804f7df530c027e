"""A table of ``qexp list tables`` from the records that are there: the user's own, else those committed beside qexp."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from qexp.conf.errors import UserError

if TYPE_CHECKING:
    from qexp.conf.schema import ExperimentConfig
    from qexp.results.schema import Record
    from qexp.results.table import Table

Find = Callable[[str], "Record | None"]
"""The record of a cell id, if there is one."""


def spec_table(name: str, cells: Mapping[tuple[int, int, int], ExperimentConfig], find: Find, command: str) -> Table:
    """The table ``name`` of its cells' records: in the paper's shape where it has columns, else a list of them.

    Raises:
        UserError: if a list of experiments has no record at all, or records do not fit the specification.
    """
    from qexp.results import grid, table
    from qexp.runner.plan import load_table
    from qexp.runner.provenance import cell_id

    spec = load_table(name)
    found = {place: find(cell_id(config)) for place, config in cells.items()}
    if spec.columns:
        return grid.build(spec, found, scale=next(iter(cells.values())).scale, command=command)
    records = [record for record in found.values() if record is not None]
    if not records:
        raise UserError(f"table {name} has no record yet; `{command}` makes them")
    built = table.build(records)
    notes = (*built.notes, *_missing(found, command), *filter(None, [spec.note]))
    return replace(built, caption=f"{spec.title} ({built.caption})", notes=notes)


def stored_table(name: str, results_dir: Path, scale: str, seeds: list[int] | None) -> Table:
    """The table ``name`` without running anything, and how many of its records are the committed ones."""
    from qexp.results.store import Store
    from qexp.runner.plan import cells

    own, committed = Store(results_dir), [Store(folder.parent) for folder in sorted(_reference().glob("*/records"))]
    used: set[str] = set()

    def find(cell: str) -> Record | None:
        record = own.load(cell)
        if record is None:
            record = next((one for store in committed if (one := store.load(cell)) is not None), None)
            used.update({cell} if record is not None else ())
        return record

    made = spec_table(name, cells(name, [f"scale={scale}"], seeds), find, make_command(name, scale, seeds))
    told = f"{len(used)} of {len(made.records)} records are committed with qexp; the others are in {results_dir}."
    return replace(made, notes=(*made.notes, told)) if used else made


def make_command(name: str, scale: str, seeds: list[int] | None = None) -> str:
    """What runs every experiment of the table that has no record yet."""
    return f"qexp reproduce {name} --scale {scale}" + (f" --seeds {','.join(map(str, seeds))}" if seeds else "")


def _missing(found: Mapping[tuple[int, int, int], Record | None], command: str) -> list[str]:
    missing = sum(record is None for record in found.values())
    return [f"{missing} of {len(found)} experiments have no record yet; `{command}` makes them."] if missing else []


def _reference() -> Path:
    """Committed tables; in an installed qexp there are none."""
    return Path(str(files("qexp.results"))) / "reference"
