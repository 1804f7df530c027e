"""Experiments of tables in this process, each told with its place in its table; one that fails stops no other."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from qexp.conf.schema import ExperimentConfig
    from qexp.results.schema import Record
    from qexp.runner.agenda import Agenda, Item
    from qexp.runner.plan import Place

    Cells = dict[Place, ExperimentConfig]


def run_one_by_one(
    plans: Mapping[str, Cells], agenda: Agenda, report: Callable[[str, Cells], None], quiet: bool
) -> dict[str, str]:
    """Run the experiments of each table in this process, then ``report`` it; by cell id what went wrong."""
    failures: dict[str, str] = {}
    for name, found in plans.items():
        todo = [item for item in agenda.to_run(name) if item.tables[0] == name]
        for number, item in enumerate(todo, start=1):
            failures |= _attempt(f"[{number}/{len(todo)}]", item, quiet)
        report(name, found)
    return failures


def _attempt(place: str, item: Item, quiet: bool) -> dict[str, str]:
    """Run one experiment; by its cell id what went wrong, if anything did."""
    from qexp.conf.errors import RunError, UserError

    print(f"{place} {item.name}", file=sys.stderr)
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
        print(f"qexp: {item.name}: {told}", file=sys.stderr)
    return {item.cell: f"{item.tables[0]}, {item.name}: {told}"} if told else {}


def _run(config: ExperimentConfig, quiet: bool) -> Record:
    from rich.console import Console

    from qexp.cli.progress import make_progress
    from qexp.cli.run import execute
    from qexp.results.store import Store

    return execute(config, Store(Path(config.results_dir)), make_progress(Console(stderr=True), quiet))
