"""``qexp track``: what was logged for W&B."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qexp.cli.show import ResultsDir

track = typer.Typer(no_args_is_help=True, help="What was logged for W&B: upload it later.")


@track.callback()
def top() -> None:
    """Options of ``qexp track`` itself: none. It keeps ``sync`` a sub-command."""


@track.command("sync", epilog="[bold]Examples[/]\n\nqexp track sync\n\nqexp track sync --dry-run")
def sync(
    results_dir: ResultsDir = "runs",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be uploaded.")] = False,
) -> None:
    """Upload the runs that were logged offline and whose cells have records, each once, under the cell's id."""
    from qexp.runner.wandb_sync import backlog, upload

    found = backlog(Path(results_dir))
    rest = [f"{found.synced} uploaded before"] if found.synced else []
    rest += [f"{found.unfinished} without a record left alone"] if found.unfinished else []
    if found.due and not dry_run:
        upload(found.due)
    said = "would be uploaded" if dry_run else "uploaded"
    typer.echo(", ".join([f"{len(found.due)} run{'' if len(found.due) == 1 else 's'} {said}", *rest]))
