"""``qexp run``: one experiment from overrides to a record."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qexp.cli.completion import complete_override

if TYPE_CHECKING:
    from qexp.conf.schema import ExperimentConfig
    from qexp.results.schema import Record
    from qexp.results.store import Store
    from qexp.runner.progress import ProgressReporter

INTERRUPTED = 130
EPILOG = (
    "[bold]Examples[/]\n\n"
    "qexp run\n\n"
    "qexp run method=gated_attention model=minilm task=sst2 scale=small\n\n"
    "qexp run method=clipped_softmax method.gamma=-0.03 model=tiny_opt quant=low_bits\n\n"
    "qexp run model=./my-checkpoint task=sst2 'quant.bits=\\[w8a8,w4a8]'\n\n"
    "qexp list methods shows what can be chosen; qexp config OVERRIDES what a run would do."
)
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="OVERRIDES",
        help="group=choice or key=value, later ones win. Groups: method model task quant train scale tracking.",
        autocompletion=complete_override,
        show_default=False,
    ),
]


def run(
    overrides: Overrides = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress; print only the record's path.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON on standard output.")] = False,
    multirun: Annotated[
        bool, typer.Option("--multirun", "-m", help="Several values, as in seed=1,2: the same as qexp sweep.")
    ] = False,
) -> None:
    """Run one experiment: train or load a network, quantize it, measure both, and keep the record.

    Asked for again, a finished experiment is returned at once; a stopped one goes on from its last checkpoint.
    """
    if multirun:
        _sweep(overrides or [], quiet, as_json)
        return
    from rich.console import Console

    from qexp.cli.progress import make_progress
    from qexp.results.store import Store
    from qexp.runner.compose import compose

    config = compose(overrides or [])
    store = Store(Path(config.results_dir))
    record = execute(config, store, make_progress(Console(stderr=True), quiet))
    _report(record, store, quiet, as_json)
    if record.status != "finished":
        raise typer.Exit(1)


def _sweep(overrides: list[str], quiet: bool, as_json: bool) -> None:
    from qexp.cli.sweep import sweep
    from qexp.conf.errors import UserError

    if as_json:
        raise UserError("--json prints one record, and --multirun makes several; `qexp status --json` tells of them")
    sweep(overrides, quiet=quiet)


def execute(config: ExperimentConfig, store: Store, progress: ProgressReporter) -> Record:
    """Run one experiment with its tracker, keeping standard output free. Ctrl-C says how to go on; exit code 130."""
    from qexp.runner.experiment import run_experiment
    from qexp.runner.identity import cell_id
    from qexp.runner.tracking import make_tracker

    tracker, code = make_tracker(config, cell_id(config)), 1
    with standard_output_kept_free():
        try:
            record = run_experiment(config, store, tracker, progress)
            code = 0 if record.status == "finished" else 1
            return record
        except KeyboardInterrupt:
            code = INTERRUPTED
            progress.finish()
            print("qexp: stopped; run the same command again to go on from the last checkpoint", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
        finally:
            progress.finish()
            tracker.close(code)


@contextmanager
def standard_output_kept_free() -> Iterator[None]:
    """Whatever a library prints while an experiment runs goes to standard error: ``--json`` must stay JSON."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _report(record: Record, store: Store, quiet: bool, as_json: bool) -> None:
    path = store.path(record.config["table"], record.cell_id)
    if as_json:
        from qexp.results.store import to_json

        typer.echo(to_json(record), nl=False)
    elif quiet:
        typer.echo(path)
    else:
        from rich.console import Console

        from qexp.cli.summary import print_summary

        print_summary(Console(), record, store)
    if record.status != "finished":
        print(f"qexp: {record.status}: {record.message}", file=sys.stderr)
