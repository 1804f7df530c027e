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
    from qexp.results.store import collector_paused

    with collector_paused():
        page = _page(what or [], scale, results_dir)
    write(to, page)


def _page(what: list[str], scale: str | None, results_dir: str) -> str:
    """Of all that was read nothing outlives this, so that the collector finds little to look through."""
    from qexp.results.library import Library, committed
    from qexp.results.report.page import to_report

    library = Library(Path(results_dir), committed())
    return to_report(list(sections(chosen_tables(what), library, scale, own=results_dir, ledger=True)))
