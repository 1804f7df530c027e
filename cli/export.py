"""``qexp export``: the integer model of a finished run as a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qexp.cli.completion import complete_override
from qexp.cli.show import ResultsDir

EPILOG = (
    "[bold]Examples[/]\n\n"
    "qexp export 3f2a91 --to my-model                  the run whose id begins so\n\n"
    "qexp export model=minilm task=sst2 --to my-model  the run of these overrides\n\n"
    "qexp export 3f2a91 --bits w4a8 --to my-model      one of several settings"
)


def export(
    what: Annotated[
        list[str],
        typer.Argument(
            help="A record's id or its beginning, or the overrides of its run.",
            metavar="ID|OVERRIDES",
            autocompletion=complete_override,
        ),
    ],
    to: Annotated[Path, typer.Option("--to", help="The folder to write.", metavar="FOLDER")],
    bits: Annotated[
        str | None, typer.Option("--bits", help="Which setting, where the run has several.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export in FOLDER.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress; print only the folder.")] = False,
    results_dir: ResultsDir = "runs",
) -> None:
    """Write the integer model of a finished run: int8 weights, scales, zero points, and how they are executed.

    The kept network is calibrated again, on the same data in the same order, so the grids are those of the run.
    """
    from rich.console import Console

    from qexp.cli.progress import make_progress
    from qexp.cli.run import standard_output_kept_free
    from qexp.results.certificate import megabytes
    from qexp.runner.export import check_target, choose_bits, export_integer, finished_run

    config = finished_run(what, results_dir)
    chosen = choose_bits(config, bits)
    check_target(to, force)
    with standard_output_kept_free():
        done = export_integer(config, chosen, to, make_progress(Console(stderr=True), quiet))
    if quiet:
        typer.echo(done.folder)
        return
    share = done.size / done.float32_size
    typer.echo(f"{done.bits} in integers: {done.folder}")
    typer.echo(f"on disk   {megabytes(done.size)} instead of {megabytes(done.float32_size)} in float32 ({share:.2f} ×)")
    typer.echo(f'load      qexp.runner.export.load_exported("{done.folder}")')
