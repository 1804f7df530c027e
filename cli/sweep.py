"""``qexp sweep`` and ``qexp resume``: many experiments at once, none of them twice."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qexp.cli.run import INTERRUPTED, Overrides
from qexp.cli.show import ResultsDir
from qexp.conf.errors import UserError

if TYPE_CHECKING:
    from qexp.runner.sweep.drive import Outcome
    from qexp.runner.sweep.folder import SweepFolder
    from qexp.runner.sweep.state import CellState, Snapshot

EPILOG = (
    "[bold]Examples[/]\n\n"
    "qexp sweep method=vanilla,gated_attention 'seed=range(0,3)'\n\n"
    "qexp sweep method=qat,\\[qat,gated_attention] 'quant.bits=\\[w8a8],\\[w4a8]' --dry-run\n\n"
    "qexp sweep 'train.learning_rate=tag(log,interval(1e-5,1e-3))' sweep.search=optuna sweep.trials=20\n\n"
    "qexp sweep --file sweep.yaml launcher.workers=4 launcher.threads=2\n\n"
    "a,b and range(0,5) are several values; \\[a,b] is one, a list. Every combination is a cell with a record of its "
    "own. The same command again goes on; qexp resume does too, qexp status shows how far it is."
)
File = Annotated[
    Path | None,
    typer.Option("--file", "-f", metavar="YAML", help="Overrides as `key: value` lines; those given here win."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress; print only the records' paths.")]


def sweep(
    overrides: Overrides = None,
    file: File = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would run.")] = False,
    quiet: Quiet = False,
    wandb: Annotated[bool, typer.Option("--wandb", help="Hand it to W&B instead, whose agents run it.")] = False,
) -> None:
    """Run every combination of several values, in parallel: launcher.workers processes, each with its own cores.

    With sweep.search=random or optuna, sweep.trials of them. A cell that has a record is not run again. Ctrl-C
    checkpoints what runs.
    """
    from qexp.runner.overrides import split
    from qexp.runner.sweep.expand import read_file
    from qexp.runner.sweep.folder import SweepFolder
    from qexp.runner.sweep.plan import plan_sweep

    words = [*(read_file(file) if file else []), *(overrides or [])]
    plan, _ = plan_sweep(words)
    if dry_run:
        _show_plan(SweepFolder.of(plan))
    elif wandb:
        _hand_over(SweepFolder.create(plan))
    else:
        launch(SweepFolder.create(plan), split(words)[1], quiet)


def resume(
    sweep_id: Annotated[
        str, typer.Argument(metavar="[ID]", help="A sweep's id or its beginning; else the latest.", show_default=False)
    ] = "",
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SETTINGS]...", help="launcher.KEY=VALUE, sweep.KEY=VALUE", show_default=False),
    ] = None,
    quiet: Quiet = False,
    results_dir: ResultsDir = "runs",
) -> None:
    """Go on with a sweep that was stopped, killed or cancelled, and try again what failed. Finished cells are kept.

    It is refused where its configurations would be other ones today: that is another sweep.
    """
    from qexp.runner.overrides import split
    from qexp.runner.sweep.folder import find_sweep
    from qexp.runner.sweep.plan import changes
    from qexp.runner.sweep.settings import check_continuation, compose_settings, gone_on, require_library

    given = [*([sweep_id] if "=" in sweep_id else []), *(settings or [])]
    folder = find_sweep(Path(results_dir), "" if "=" in sweep_id else sweep_id)
    experiments, own = split(given)
    if experiments:
        raise UserError(f"{experiments[0]}: a sweep goes on as it was planned; another one is `qexp sweep` with it")
    searched = compose_settings([text for text in own if not text.startswith("launcher")]).sweep
    check_continuation(searched, folder.plan.search)
    require_library(folder.plan.search)
    if different := changes(folder.plan):
        more = f" and {len(different) - 3} more" if len(different) > 3 else ""
        raise UserError(
            f"sweep {folder.plan.sweep_id[:8]} would be another one today: {'; '.join(different[:3])}{more}. Its "
            f"records stay; start the new one with: {folder.plan.command}"
        )
    launch(folder.extended(searched.trials), gone_on(folder.settings(folder.launch()), own), quiet)


def launch(folder: SweepFolder, settings: Sequence[str], quiet: bool) -> None:
    """Run what has no record yet, then say how it ended; exit code 1 where a cell has failed, 130 where stopped."""
    _report(folder, run_cells(folder, settings, quiet), quiet)


def run_cells(folder: SweepFolder, settings: Sequence[str], quiet: bool) -> Outcome:
    """Run what has no record yet with the workers that ``settings`` ask for, and show how far they are."""
    from qexp.cli.sweep_view import make_view
    from qexp.runner.sweep.drive import Outcome, drive
    from qexp.runner.sweep.forecast import forecast
    from qexp.runner.sweep.launchers import make_pool, make_slots
    from qexp.runner.sweep.settings import compose_settings
    from qexp.runner.sweep.state import Watch

    composed = compose_settings(settings)
    snapshot = Watch(folder, folder.launch() + 1).look()
    if snapshot.settled:
        return Outcome(snapshot, stopped=False)
    todo = [state.cell for state in snapshot.cells if not state.settled]
    expected = forecast(folder, todo)
    slots = make_slots(composed.launcher, todo, expected.memory)
    folder.allow()
    number = folder.new_launch(settings)
    view = make_view(folder, quiet)
    view.plan(snapshot, slots, expected)
    with view:
        return drive(folder, number, make_pool(folder, number, composed.launcher, slots), view.show)


def _show_plan(folder: SweepFolder) -> None:
    from qexp.cli.sweep_view import predicted
    from qexp.runner.sweep.forecast import forecast
    from qexp.runner.sweep.state import Watch

    snapshot = Watch(folder, 1).look()
    for state in snapshot.cells:
        if state.cell.cell_id:
            typer.echo(f"{state.cell.cell_id}  {state.status:<9} {state.cell.label}")
    if folder.plan.proposes:
        for line in _space(folder.plan.overrides):
            typer.echo(line)
        typer.echo("Optuna proposes each cell when its turn comes, from the figures of those before", err=True)
    todo = [state.cell for state in snapshot.cells if not state.settled]
    told = f"; 1 worker: {predicted(forecast(folder, todo), 1)}" if todo else ""
    typer.echo(f"sweep {folder.plan.sweep_id[:8]}: {_counted(snapshot)}{told}", err=True)


def _hand_over(folder: SweepFolder) -> None:
    from qexp.runner.sweep.wandb_sweep import register, write_wandb

    path = write_wandb(folder)
    typer.echo(f"written: {path}")
    agent = register(path)
    typer.echo(f"start agents with: {agent}" if agent else f"no W&B login here; after one: wandb sweep {path}")


def _space(overrides: Sequence[str]) -> list[str]:
    from qexp.runner.sweep.expand import axes
    from qexp.runner.sweep.space import described

    return [f"{key}: {what}" for key, what in described(axes(overrides)).items()]


def _counted(snapshot: Snapshot) -> str:
    found = ", ".join(f"{number} {status}" for status, number in snapshot.counts().items())
    return f"{len(snapshot.cells)} cells: {found}"


def _report(folder: SweepFolder, outcome: Outcome, quiet: bool) -> None:
    if quiet:
        for state in outcome.snapshot.cells:
            if state.status in ("finished", "diverged"):
                typer.echo(folder.store.path(state.cell.table, state.cell.cell_id))
    else:
        typer.echo(f"sweep {folder.plan.sweep_id[:8]}: {_counted(outcome.snapshot)}")
        show_best(folder, outcome.snapshot)
    for state in outcome.snapshot.cells:
        if state.status in ("failed", "diverged"):
            print(f"qexp: {failure(state)}", file=sys.stderr)
    if outcome.stopped:
        print("qexp: stopped; `qexp resume` goes on from the last checkpoints", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)
    if any(state.status not in ("finished", "pruned") for state in outcome.snapshot.cells):
        raise typer.Exit(1)


def show_best(folder: SweepFolder, snapshot: Snapshot) -> None:
    """Of a search, a line for its best cell so far."""
    from qexp.runner.sweep.objective import BIAS, best_of

    if (best := best_of(folder, snapshot)) is not None:
        typer.echo(f"{best}\n{BIAS}")


def failure(state: CellState) -> str:
    """``failed: LABEL: why``, and where its log is."""
    hint = f" (qexp logs {state.cell.cell_id[:8]})" if state.status == "failed" else ""
    return f"{state.status}: {state.cell.label}: {state.message or 'see its record'}{hint}"
