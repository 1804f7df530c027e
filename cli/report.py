"""``qexp report``: every table, claim and figure with its provenance as one page to read or to pass on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qexp.cli.sections import ScaleWithRecords, What, chosen_tables, sections
from qexp.cli.show import ResultsDir

EPILOG = (
    "[bold]Examples[/]\n\n"
    "qexp report\n\n"
    "qexp report outlier_int8 --scale small --to int8.html\n\n"
    "qexp report quantizable_transformers/finetuned_encoder --results-dir runs"
)


def report(
    what: What = None,
    scale: ScaleWithRecords = None,
    to: Annotated[Path, typer.Option("--to", "-o", help="The page to write.", metavar="FILE")] = Path("report.html"),
    results_dir: ResultsDir = "runs",
) -> None:
    """Write one HTML page that needs no network: tables, verdicts, and behind each figure where it comes from."""
    from qexp.cli.table import write
    from qexp.results.library import Library, committed
    from qexp.results.report.page import to_report
    from qexp.results.store import collector_paused

    with collector_paused():
        library = Library(Path(results_dir), committed())
        page = to_report(list(sections(chosen_tables(what or []), library, scale, own=results_dir, ledger=True)))
        del library  # before the collector looks through all of it
    write(to, page)
