"""``qexp reproduce``: every experiment of tables, then the tables; ``qexp plan``: what that would be."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qexp.conf.schema import ExperimentConfig
    from qexp.results.schema import Record
    from qexp.runner.agenda import Agenda, Item

    Cells = dict[tuple[int, int, int], ExperimentConfig]

EPILOG = (
    "[bold]Examples[/]\n\n"
    "qexp list tables\n\n"
    "qexp plan all --scale small\n\n"
    "qexp reproduce quantizable_transformers/finetuned_encoder --scale small\n\n"
    "qexp reproduce quadapter --scale small --seeds 1000\n\n"
    "qexp reproduce all --scale smoke\n\n"
    "A finished experiment is never run twice: after a stop, the same command goes on."
)
What = Annotated[
    list[str],
    typer.Argument(
        help="Tables of `qexp list tables`, papers for all their tables, or all; then key=value for every experiment.",
        metavar="TABLE|PAPER|all... [OVERRIDES]...",
    ),
]
Scale = Annotated[str, typer.Option(help="smoke, small, medium or paper.")]
Seeds = Annotated[str, typer.Option(help="Comma-separated; the tables' own when empty.", show_default=False)]
OnlyMissing = Annotated[
    bool, typer.Option("--only-missing", help="Leave out what the tables committed with qexp hold already.")
]


def plan(
    what: What,
    scale: Scale = "small",
    seeds: Seeds = "",
    only_missing: OnlyMissing = False,
    experiments: Annotated[bool, typer.Option("--experiments", help="A line for each experiment too.")] = False,
) -> None:
    """Show what `qexp reproduce` would run: experiments done and to do, and time, memory and disk, from records."""
    from qexp.cli.agenda import print_agenda, print_items

    plans, agenda, _ = _planned(what, scale, seeds, only_missing)
    if experiments:
        print_items(agenda.items)
    print_agenda(agenda, list(plans), scale)


def reproduce(
    what: What,
    scale: Scale = "small",
    seeds: Seeds = "",
    only_missing: OnlyMissing = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would run, as qexp plan does.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(help="Write each table and its records to a folder of its name in this one.", show_default=False),
    ] = None,
    predictions: Annotated[
        bool, typer.Option("--predictions", help="With --output: copy what every example contributed too.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Run every experiment of tables that has no record yet, then print the tables.

    An experiment that fails is told, and the others go on; the end is a summary, and exit code 1 if any failed.
    """
    if dry_run:
        plan(what, scale, seeds, only_missing)
        return
    plans, agenda, theirs = _planned(what, scale, seeds, only_missing)
    failures: dict[str, str] = {}
    ran = 0
    for name, found in plans.items():
        todo = [item for item in agenda.to_run(name) if item.tables[0] == name]
        for number, item in enumerate(todo, start=1):
            failures |= _attempt(f"[{number}/{len(todo)}]", item, quiet)
        ran += len(todo)
        _report(name, found, theirs, output, predictions)
    _summarize(agenda, ran, failures)
    if failures:
        raise typer.Exit(1)


def _planned(
    what: list[str], scale: str, seeds: str, only_missing: bool
) -> tuple[dict[str, Cells], Agenda, dict[str, Record]]:
    """The cells of each table, every experiment once with its state and cost, and the committed records by cell id."""
    from qexp.cli.sections import chosen_tables
    from qexp.conf.errors import UserError
    from qexp.results.library import committed
    from qexp.results.store import Store
    from qexp.runner.agenda import make_agenda
    from qexp.runner.plan import cells

    overrides = [f"scale={scale}", *(word for word in what if "=" in word)]
    names = [word for word in what if "=" not in word]
    if not names:
        raise UserError("name at least one table or paper, or all; `qexp list tables` shows them")
    wanted = parse_seeds(seeds)
    plans = {name: cells(name, overrides, wanted) for name in chosen_tables(names)}
    own = Store(Path(next(config.results_dir for found in plans.values() for config in found.values()))).query()
    theirs = {record.cell_id: record for root in committed() for record in Store(root).query()}
    return plans, make_agenda(plans, own, list(theirs.values()), only_missing), theirs


def parse_seeds(text: str) -> list[int] | None:
    """``1000,2000`` as numbers, None when empty. Raises ``UserError`` for anything else."""
    from qexp.conf.errors import UserError

    try:
        return [int(part) for part in text.split(",")] if text else None
    except ValueError:
        raise UserError(f"--seeds {text}: expected whole numbers separated by commas, like 1000,2000") from None


def _attempt(place: str, item: Item, quiet: bool) -> dict[str, str]:
    """Run one experiment; by its cell id what went wrong, if anything did."""
    from qexp.cli.agenda import name_of
    from qexp.conf.errors import RunError, UserError

    print(f"{place} {name_of(item)}", file=sys.stderr)
    try:
        record = _run(item.config, quiet)
    except (UserError, RunError) as error:
        told = " ".join(str(error).split())
    except typer.Exit:
        raise
    except Exception as error:
        traceback.print_exc()
        told = f"{type(error).__name__}: {error}"
    else:
        told = "" if record.status == "finished" else f"{record.status}: {record.message}"
    if told:
        print(f"qexp: {name_of(item)}: {told}", file=sys.stderr)
    return {item.cell: f"{item.tables[0]}, {name_of(item)}: {told}"} if told else {}


def _run(config: ExperimentConfig, quiet: bool) -> Record:
    from rich.console import Console

    from qexp.cli.progress import make_progress
    from qexp.cli.run import execute
    from qexp.results.store import Store

    return execute(config, Store(Path(config.results_dir)), make_progress(Console(stderr=True), quiet))


def _report(name: str, found: Cells, theirs: Mapping[str, Record], output: Path | None, predictions: bool) -> None:
    from qexp.cli.spec_table import make_command, spec_table
    from qexp.cli.table import print_table
    from qexp.conf.errors import UserError
    from qexp.results.export import write_reference
    from qexp.results.store import Store
    from qexp.runner.plan import folder_of

    config = next(iter(found.values()))
    store = Store(Path(config.results_dir))
    try:
        table = spec_table(
            name, found, lambda cell: store.load(cell) or theirs.get(cell), make_command(name, config.scale)
        )
    except UserError as error:
        print(f"qexp: {error}", file=sys.stderr)
        return
    print_table(table)
    if output is not None:
        write_reference(table, output / folder_of(name), predictions)


def _summarize(agenda: Agenda, ran: int, failures: Mapping[str, str]) -> None:
    """How many ran, were there already, and failed, by name."""
    there = len(agenda.items) - ran
    print(f"{ran} experiments ran, {there} had a record, {len(failures)} failed or diverged", file=sys.stderr)
    for cell, told in failures.items():
        print(f"  {cell} {told}", file=sys.stderr)
