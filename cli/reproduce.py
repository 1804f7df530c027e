"""``qexp reproduce``: every experiment of a table, one after another, then the table; for one table or all."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qexp.conf.schema import ExperimentConfig
    from qexp.results.schema import Record

EPILOG = (
    "[bold]Examples[/]\n\n"
    "qexp list tables\n\n"
    "qexp reproduce quantizable_transformers/finetuned_encoder --scale small\n\n"
    "qexp reproduce all --scale smoke\n\n"
    "qexp reproduce quantizable_transformers/finetuned_encoder --scale smoke --dry-run\n\n"
    "A finished experiment is never run twice: after a stop, the same command goes on."
)


def reproduce(
    what: Annotated[
        list[str],
        typer.Argument(
            help="Tables of `qexp list tables`, or all; then key=value for every experiment.",
            metavar="TABLE... [OVERRIDES]...",
        ),
    ],
    scale: Annotated[str, typer.Option(help="smoke, small, medium or paper.")] = "small",
    seeds: Annotated[str, typer.Option(help="Comma-separated; the table's own when empty.", show_default=False)] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would run.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(help="Write each table and its records to a folder of its name in this one.", show_default=False),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Run every experiment of a table that has no record yet, then print the table."""
    from qexp.conf.errors import UserError
    from qexp.runner.plan import cells, table_names, unique

    overrides = [f"scale={scale}", *(word for word in what if "=" in word)]
    names = [word for word in what if "=" not in word]
    if not names:
        raise UserError("qexp reproduce takes at least one table, or all; `qexp list tables` shows them")
    plans = {
        name: cells(name, overrides, parse_seeds(seeds)) for name in (table_names() if names == ["all"] else names)
    }
    if dry_run:
        _show_plan([config for found in plans.values() for config in unique(found)])
        return
    finished = True
    for name, found in plans.items():
        todo = unique(found)
        records = [_run(number, len(todo), config, quiet) for number, config in enumerate(todo, start=1)]
        _report(name, found, records, output)
        finished &= all(record.status == "finished" for record in records)
    if not finished:
        raise typer.Exit(1)


def parse_seeds(text: str) -> list[int] | None:
    """``1000,2000`` as numbers, None when empty. Raises ``UserError`` for anything else."""
    from qexp.conf.errors import UserError

    try:
        return [int(part) for part in text.split(",")] if text else None
    except ValueError:
        raise UserError(f"--seeds {text}: expected whole numbers separated by commas, like 1000,2000") from None


def _show_plan(cells: Sequence[ExperimentConfig]) -> None:
    from qexp.results.store import Store
    from qexp.runner.provenance import cell_id

    for cell in cells:
        known = Store(Path(cell.results_dir)).load(cell_id(cell))
        methods = ",".join(choice.name for choice in cell.method)
        state = known.status if known else "to do"
        typer.echo(f"{cell_id(cell)}  {state:<9} {methods} {cell.model.name} {cell.task.name} seed={cell.seed}")


def _run(number: int, total: int, cell: ExperimentConfig, quiet: bool) -> Record:
    from rich.console import Console

    from qexp.cli.progress import make_progress
    from qexp.cli.run import execute
    from qexp.results.store import Store

    methods = ",".join(choice.name for choice in cell.method)
    print(f"[{number}/{total}] {methods} {cell.model.name} {cell.task.name} seed={cell.seed}", file=sys.stderr)
    return execute(cell, Store(Path(cell.results_dir)), make_progress(Console(stderr=True), quiet))


def _report(
    name: str, found: dict[tuple[int, int, int], ExperimentConfig], records: list[Record], output: Path | None
) -> None:
    from qexp.cli.spec_table import make_command, spec_table
    from qexp.cli.table import print_table
    from qexp.results.export import write_reference
    from qexp.runner.plan import folder_of

    known = {record.cell_id: record for record in records}
    table = spec_table(name, found, known.get, make_command(name, next(iter(found.values())).scale))
    print_table(table)
    if output is not None:
        write_reference(table, output / folder_of(name))
