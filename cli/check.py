"""``qexp check``: whether small runs still give the figures that are committed with qexp."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from qexp.results.check import Cell, Figures

COMMON = ("scale=smoke", "tracking=none", "device=cpu", "threads=1")
"""The same on every machine: no GPU, and one order of summation."""


def check(
    update: Annotated[
        bool, typer.Option("--update", help="Write what is found as the new expectations, after a wanted change.")
    ] = False,
) -> None:
    """Recompute small experiments; fail when a figure moved beyond its tolerance. For a clone of the repository."""
    from qexp.results.check import moved, read, write

    expected = read()
    with tempfile.TemporaryDirectory() as folder:
        found = [_measure(cell, folder) for cell in expected.cells]
    if update:
        cells = (replace(cell, figures=figures) for cell, figures in zip(expected.cells, found, strict=True))
        write(replace(expected, cells=tuple(cells)))
        typer.echo(f"{len(found)} experiments written")
        return
    lines = [
        line
        for cell, figures in zip(expected.cells, found, strict=True)
        for line in moved(cell, figures, expected.tolerances)
    ]
    typer.echo("\n".join([*lines, f"{len(found)} experiments, {len(lines)} figures moved"]))
    if lines:
        raise typer.Exit(1)


def _measure(cell: Cell, folder: str) -> Figures:
    """Run one cell anew. Raises ``RunError`` if it does not finish."""
    from qexp.cli.run import execute
    from qexp.conf.errors import RunError
    from qexp.results.check import figures_of
    from qexp.results.store import Store
    from qexp.runner.compose import compose
    from qexp.runner.progress import SilentProgress

    config = compose([*cell.overrides, *COMMON, f"results_dir={folder}"])
    record = execute(config, Store(Path(folder)), SilentProgress())
    if record.status != "finished":
        raise RunError(f"{cell.name} {record.status}: {record.message}")
    return figures_of(record)
