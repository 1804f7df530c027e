"""The tables of ``qexp list tables`` from the records at hand, each at the highest scale that has some."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Annotated

import typer

from qexp.conf.catalog import SCALES, choices, did_you_mean
from qexp.conf.errors import UserError

if TYPE_CHECKING:
    from qexp.cli.spec_table import Cells
    from qexp.conf.tables import TableConfig
    from qexp.results.grid import Found
    from qexp.results.library import Library
    from qexp.results.section import Section
    from qexp.results.table import Table

What = Annotated[
    list[str] | None,
    typer.Argument(
        help="Tables of `qexp list tables`, papers, or all.", metavar="[TABLE|PAPER]...", show_default=False
    ),
]
ScaleWithRecords = Annotated[
    str | None, typer.Option(help="smoke, small, medium or paper; each table's highest with records by default.")
]
DEFAULT_SCALE = "small"
"""Of the command that makes a table without records, where no scale is asked for."""


def chosen_tables(words: Sequence[str]) -> list[str]:
    """Names of tables, of papers for all of their tables, or ``all`` (as no word is), as full names, each once.

    Raises:
        UserError: for a word that is none of them.
    """
    names = choices("table")
    chosen: dict[str, None] = {}
    for word in words or ["all"]:
        members = [name for name in names if word in ("all", name) or name.startswith(f"{word.rstrip('/')}/")]
        if not members:
            papers = list(dict.fromkeys(name.rpartition("/")[0] for name in names if "/" in name))
            near = did_you_mean(word, [*names, *papers])
            if word.startswith("results_dir="):
                near = f"; here the folder of records is an option: --results-dir {word.partition('=')[2]}"
            raise UserError(f"unknown table or paper '{word}'{near}; papers: {', '.join(papers)}; or all")
        chosen.update(dict.fromkeys(members))
    return list(chosen)


def sections(
    names: Sequence[str], library: Library, scale: str | None, *, own: str, ledger: bool = False
) -> Iterator[Section]:
    """One section a table, made at ``scale`` or the highest that has records; one without a record has no table.

    ``own``: what to call the folder of the user's records; ``ledger``: whether to compare with the paper's scale too.
    """
    if scale is not None and scale not in SCALES:
        raise UserError(f"--scale {scale}: scales are {', '.join(SCALES)}")
    for name in names:
        yield _section(name, library, scale, own, ledger)


def _section(name: str, library: Library, scale: str | None, own: str, ledger: bool) -> Section:
    from qexp.cli.spec_table import ledger_of, made_table, make_command, with_origin
    from qexp.results.section import Section
    from qexp.runner.plan import cells, ids, load_table

    spec = load_table(name)
    cells_at = cache(lambda at: cells(name, [f"scale={at}"]))
    wanted = [scale] if scale else reversed(SCALES)
    for at in [one for one in wanted if one in library.scales]:
        found = {place: library.find(cell) for place, cell in ids(cells_at(at)).items()}
        if any(found.values()):
            command = make_command(name, at)
            table = with_origin(made_table(name, spec, found, at, command), library, own)
            told = ledger_of(spec, cells_at(at), cells_at(SCALES[-1])) if ledger and at != SCALES[-1] else ()
            return Section(name, spec, at, command, table, told, _commands(spec, cells_at(at), found))
    at = scale or DEFAULT_SCALE
    return Section(name, spec, at, make_command(name, at), _published_alone(name, spec, at))


def _published_alone(name: str, spec: TableConfig, scale: str) -> Table | None:
    """The grid with nothing but the paper's figures; None where there is none of them."""
    from qexp.cli.spec_table import made_table, make_command

    if spec.published is None or not spec.published.cells:
        return None
    places = ((seed, x, y) for seed in spec.seeds for x in range(len(spec.columns)) for y in range(len(spec.rows)))
    return made_table(name, spec, dict.fromkeys(places), scale, make_command(name, scale))


def _commands(spec: TableConfig, cells: Cells, found: Found) -> dict[str, str]:
    """``qexp run`` with the overrides of each record's row and column; a later one of the same key wins."""
    from qexp.conf.tables import ColumnConfig
    from qexp.runner.plan import overrides_at

    columns = spec.columns or (ColumnConfig(""),)
    commands = {}
    for (seed, x, y), record in found.items():
        if record is not None:
            scale = cells[seed, x, y].scale
            words = [*overrides_at(scale, spec, spec.rows[y], columns[x]), f"scale={scale}", f"seed={seed}"]
            by_key = {word.partition("=")[0]: word for word in words}
            commands[record.cell_id] = f"qexp run {shlex.join(by_key.values())}"
    return commands
