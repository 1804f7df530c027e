"""``qexp reproduce``: every experiment of tables, then the tables; ``qexp plan``: what that would be."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qexp.conf.schema import ExperimentConfig
    from qexp.results.schema import Record
    from qexp.runner.agenda import Agenda
    from qexp.runner.plan import Place

    Cells = dict[Place, ExperimentConfig]

EPILOG = (
    "[bold]Examples[/]\n\n"
    "qexp list tables\n\n"
    "qexp plan all --scale small\n\n"
    "qexp reproduce quantizable_transformers/finetuned_encoder --scale small\n\n"
    "qexp reproduce quadapter --scale small --seeds 1000\n\n"
    "qexp reproduce all --scale smoke launcher=local\n\n"
    "qexp reproduce unit_scaling launcher=slurm launcher.workers=8\n\n"
    "A finished experiment is never run twice: after a stop, the same command goes on."
)
What = Annotated[
    list[str],
    typer.Argument(
        help="Tables of `qexp list tables`, papers for all their tables, or all; then key=value for every experiment, "
        "and launcher=... as of a sweep, to run several at a time.",
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
    from qexp.runner.overrides import split

    plans, agenda, _ = _planned(_Asked(split(what)[0], scale, seeds, only_missing))
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
    With launcher=local, slurm or ray they run as the cells of a sweep, several at a time.
    """
    from qexp.cli.one_by_one import run_one_by_one
    from qexp.runner.overrides import split

    if dry_run:
        plan(what, scale, seeds, only_missing)
        return
    words, settings = split(what)
    asked = _Asked(words, scale, seeds, only_missing)
    plans, agenda, theirs = _planned(asked)
    report = partial(_report, theirs=theirs, output=output, predictions=predictions)
    if settings:
        failures = _run_as_sweep(asked, plans, agenda, settings, quiet)
        for name, found in plans.items():
            report(name, found)
    else:
        failures = run_one_by_one(plans, agenda, report, quiet)
    _summarize(agenda, failures)
    if failures:
        raise typer.Exit(1)


@dataclass(frozen=True)
class _Asked:
    """Which tables, at which scale, with which seeds; as the user typed it."""

    words: list[str]
    scale: str
    seeds: str
    only_missing: bool

    @property
    def overrides(self) -> list[str]:
        return [f"scale={self.scale}", *(word for word in self.words if "=" in word)]

    @property
    def typed(self) -> list[str]:
        seeds = [f"--seeds {self.seeds}"] if self.seeds else []
        return [*self.words, f"--scale {self.scale}", *seeds, *["--only-missing"] * self.only_missing]


def _planned(asked: _Asked) -> tuple[dict[str, Cells], Agenda, dict[str, Record]]:
    """The cells of each table, every experiment once with its state and cost, and the committed records by cell id."""
    from qexp.cli.sections import chosen_tables
    from qexp.conf.errors import UserError
    from qexp.results.library import committed
    from qexp.results.store import Store, collector_paused
    from qexp.runner.agenda import make_agenda
    from qexp.runner.plan import cells

    names = [word for word in asked.words if "=" not in word]
    if not names:
        raise UserError("name at least one table or paper, or all; `qexp list tables` shows them")
    seeds = parse_seeds(asked.seeds)
    with collector_paused():
        plans = {name: cells(name, asked.overrides, seeds) for name in chosen_tables(names)}
        own = Store(Path(next(config.results_dir for found in plans.values() for config in found.values()))).query()
        theirs = {record.cell_id: record for root in committed() for record in Store(root).query()}
        return plans, make_agenda(plans, own, list(theirs.values()), asked.only_missing), theirs


def _run_as_sweep(
    asked: _Asked, plans: Mapping[str, Cells], agenda: Agenda, settings: list[str], quiet: bool
) -> dict[str, str]:
    """Run several experiments at a time; by cell id what went wrong. Exit code 130 where it was stopped."""
    from qexp.cli.run import INTERRUPTED
    from qexp.cli.sweep import failure, run_cells
    from qexp.runner.sweep.folder import SweepFolder
    from qexp.runner.sweep.tables import plan_tables

    sweep = plan_tables(plans, agenda, asked.overrides, parse_seeds(asked.seeds), asked.typed, settings)
    outcome = run_cells(SweepFolder.create(sweep), settings, quiet)
    if outcome.stopped:
        print("qexp: stopped; the same command goes on from the last checkpoints", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)
    ran = {item.cell for item in agenda.to_run()}
    ended = [state for state in outcome.snapshot.cells if state.cell.cell_id in ran]
    return {state.cell.cell_id: failure(state) for state in ended if state.status != "finished"}


def parse_seeds(text: str) -> list[int] | None:
    """``1000,2000`` as numbers, None when empty. Raises ``UserError`` for anything else."""
    from qexp.conf.errors import UserError

    try:
        return [int(part) for part in text.split(",")] if text else None
    except ValueError:
        raise UserError(f"--seeds {text}: expected whole numbers separated by commas, like 1000,2000") from None


def _report(name: str, found: Cells, *, theirs: Mapping[str, Record], output: Path | None, predictions: bool) -> None:
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


def _summarize(agenda: Agenda, failures: Mapping[str, str]) -> None:
    """How many ran, were there already, and failed, by name."""
    ran = len(agenda.to_run())
    there = len(agenda.items) - ran
    print(f"{ran} experiments ran, {there} had a record, {len(failures)} failed or diverged", file=sys.stderr)
    for cell, told in failures.items():
        print(f"  {cell} {told}", file=sys.stderr)
