"""``qexp status``, ``qexp cancel`` and ``qexp logs``: look at a sweep, or end it, from any terminal."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qexp.cli.show import ResultsDir
from qexp.conf.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qexp.runner.sweep.state import Snapshot

STATUS_EXAMPLES = "[bold]Examples[/]\n\nqexp status\n\nqexp status 3f2a --json\n\nqexp status --all"
LOGS_EXAMPLES = "[bold]Examples[/]\n\nqexp logs 3f2a91\n\nqexp logs 3f2a91 --follow"
SECONDS_TO_STOP = 60.0
SweepId = Annotated[
    str, typer.Argument(metavar="[ID]", help="A sweep's id or its beginning; else the latest.", show_default=False)
]


def status(
    sweep_id: SweepId = "",
    every: Annotated[bool, typer.Option("--all", help="One line for each sweep.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    results_dir: ResultsDir = "runs",
) -> None:
    """Show the cells of a sweep: finished, running and how far, failed and why, or still waiting."""
    from qexp.runner.sweep.folder import SweepFolder, all_sweeps, find_sweep

    if every:
        for path in all_sweeps(Path(results_dir)):
            folder = SweepFolder.open(path)
            typer.echo(f"{_counted(folder)}  {folder.plan.command.removeprefix('qexp sweep').strip()}")
        return
    folder = find_sweep(Path(results_dir), sweep_id)
    snapshot = _look(folder)
    if as_json:
        typer.echo(json.dumps(_as_json(folder, snapshot), indent=2, ensure_ascii=False))
        return
    from rich.console import Console

    from qexp.cli.progress import duration
    from qexp.cli.sweep import show_best
    from qexp.cli.sweep_view import cells_table

    console = Console()
    console.print(cells_table(snapshot.cells))
    left = snapshot.seconds_left() if snapshot.counts().get("running") else None
    console.print(
        f"sweep {_counted(folder)}{f', about {duration(left)} left' if left else ''}", highlight=False, soft_wrap=True
    )
    show_best(folder, snapshot)


def cancel(sweep_id: SweepId = "", results_dir: ResultsDir = "runs") -> None:
    """Stop a sweep, wherever it runs: what is under way is checkpointed. qexp resume goes on with it."""
    from qexp.runner.sweep.folder import find_sweep

    folder = find_sweep(Path(results_dir), sweep_id)
    folder.cancel()
    end = time.monotonic() + SECONDS_TO_STOP
    while (running := _look(folder).counts().get("running", 0)) and time.monotonic() < end:
        time.sleep(0.5)
    still = f"; {running} cells end at their next step" if running else ""
    typer.echo(f"sweep {folder.plan.sweep_id[:8]} is cancelled{still}; `qexp resume` goes on with it")


def logs(
    cell_id: Annotated[str, typer.Argument(metavar="ID", help="A cell's id or its beginning.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on printing what is added.")] = False,
    results_dir: ResultsDir = "runs",
) -> None:
    """Print what a cell of a sweep wrote, of all its attempts."""
    folder = Path(results_dir) / "sweeps" / "logs"
    found = sorted(path for path in folder.glob("*.log") if path.stem.startswith(cell_id))
    if not found:
        raise UserError(f"no log of a cell in {results_dir} begins with {cell_id!r}; `qexp status` shows the ids")
    if len(found) > 1:
        names = ", ".join(path.stem for path in found[:4])
        raise UserError(f"{cell_id!r} is the beginning of {len(found)} cells: {names}")
    for text in _lines(found[0], follow):
        sys.stdout.write(text)
        sys.stdout.flush()


def _lines(path: Path, follow: bool) -> Iterator[str]:
    with path.open(encoding="utf-8", errors="replace") as file:
        while True:
            if text := file.read():
                yield text
            elif follow:
                time.sleep(0.5)
            else:
                return


def _look(folder: Any) -> Snapshot:
    from qexp.runner.sweep.state import Watch

    return Watch(folder, folder.launch()).look()


def _counted(folder: Any) -> str:
    snapshot = _look(folder)
    counts = ", ".join(f"{number} {status}" for status, number in snapshot.counts().items())
    end = " (cancelled)" if folder.cancelled() and not snapshot.settled else ""
    return f"{folder.plan.sweep_id[:8]}: {len(snapshot.cells)} cells: {counts}{end}"


def _as_json(folder: Any, snapshot: Snapshot) -> dict[str, Any]:
    from dataclasses import asdict

    from qexp.runner.sweep.objective import best_of

    best = best_of(folder, snapshot)
    cells = [
        {
            "cell_id": state.cell.cell_id,
            "label": state.cell.label,
            "status": state.status,
            "message": state.message,
            "seconds": state.seconds,
            "progress": asdict(state.progress) if state.progress else None,
        }
        for state in snapshot.cells
    ]
    return {
        "sweep": folder.plan.sweep_id,
        "overrides": list(folder.plan.overrides),
        "cancelled": folder.cancelled(),
        "counts": snapshot.counts(),
        "seconds_left": snapshot.seconds_left(),
        "best": best.as_json() if best else None,
        "cells": cells,
    }
