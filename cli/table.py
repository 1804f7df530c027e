"""``qexp table``: any set of records as one table, or a table of ``qexp list tables`` from the records there are."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qexp.cli.show import ResultsDir
from qexp.conf.errors import UserError

if TYPE_CHECKING:
    from qexp.results.schema import Record
    from qexp.results.store import Store
    from qexp.results.table import Table

EPILOG = (
    "[bold]Examples[/]\n\n"
    "qexp table\n\n"
    "qexp table --where model=minilm --where task=sst2 --columns float --columns w8a8\n\n"
    "qexp table outlier_int8/glue --scale small\n\n"
    "qexp table 3f2a91 77b0c2 --format latex --output table.tex"
)


class Format(str, Enum):
    """How a table is written; the value is also the ending of its file's name."""

    md = "md"
    latex = "latex"
    csv = "csv"
    html = "html"


ENDINGS = {".md": Format.md, ".tex": Format.latex, ".csv": Format.csv, ".html": Format.html}
PICTURE = ".png"
"""Ending of a file that the table's curves are drawn into."""


def table(
    ids: Annotated[
        list[str] | None,
        typer.Argument(
            help="Records by id or its beginning, all when none is given; or one table of `qexp list tables`.",
            metavar="[ID...|TABLE]",
            show_default=False,
        ),
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option("--where", metavar="KEY=VALUE", help="Only records with this configuration.")
    ] = None,
    rows: Annotated[
        list[str] | None, typer.Option("--rows", help="Configuration key of a row.  [default: method]")
    ] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--columns", help="Settings and outlier statistics to show; all by default.")
    ] = None,
    metric: Annotated[str | None, typer.Option("--metric", help="The metric; the task's first by default.")] = None,
    scale: Annotated[
        str | None, typer.Option("--scale", help="Of a TABLE: smoke, small, medium or paper.  [default: small]")
    ] = None,
    seeds: Annotated[str, typer.Option("--seeds", help="Of a TABLE: its own when empty.", show_default=False)] = "",
    form: Annotated[Format | None, typer.Option("--format", help="How to write it.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Write to this file; a .png is a picture of a TABLE's curves.", metavar="FILE"
        ),
    ] = None,
    results_dir: ResultsDir = "runs",
) -> None:
    """Put records side by side: mean ± standard deviation over seeds, bold where one is clearly best."""
    from qexp.results.store import Store
    from qexp.results.table import build

    names = [word for word in ids or [] if not re.fullmatch(r"[0-9a-f]{1,16}", word)]
    if names:
        _check_table(ids or [], names, any((where, rows, columns, metric)))
        built = _named(names[0], Path(results_dir), scale or "small", seeds)
    elif scale is not None or seeds:
        raise UserError("--scale and --seeds choose the records of a TABLE; of any records, use --where scale=…")
    else:
        records = _records(Store(Path(results_dir)), ids or [], where or [])
        built = build(records, rows=rows or ("method",), columns=columns, metric=metric)
    form = form or (ENDINGS.get(output.suffix, Format.md) if output else None)
    if output and output.suffix == PICTURE:
        _draw(built, output)
    elif output:
        write(output, _text(built, form or Format.md))
    elif form:
        typer.echo(_text(built, form).rstrip("\n"))
    else:
        print_table(built)


def _check_table(ids: list[str], names: list[str], choosing: bool) -> None:
    if len(ids) > 1:
        raise UserError(f"qexp table takes records' ids or one table, and {names[0]!r} is no id")
    if choosing:
        raise UserError(
            f"table {names[0]} has its own rows and columns; --where, --rows, --columns, --metric do not act"
        )


def _named(name: str, results_dir: Path, scale: str, seeds: str) -> Table:
    from qexp.cli.reproduce import parse_seeds
    from qexp.cli.spec_table import stored_table

    return stored_table(name, results_dir, scale, parse_seeds(seeds))


def _records(store: Store, ids: list[str], where: list[str]) -> list[Record]:
    conditions = {}
    for text in where:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise UserError(f"--where {text}: write KEY=VALUE, for instance --where model=minilm")
        conditions[key] = value
    found = store.query(conditions)
    if not ids:
        return found
    chosen = {store.find(prefix).cell_id for prefix in ids}
    return [record for record in found if record.cell_id in chosen]


def _text(built: Table, form: Format) -> str:
    from qexp.results import export

    write = {
        Format.md: export.to_markdown,
        Format.latex: export.to_latex,
        Format.csv: export.to_csv,
        Format.html: export.to_html,
    }[form]
    return write(built)


def _draw(built: Table, path: Path) -> None:
    from qexp.results.curves import draw_curves

    draw_curves(built, path)
    typer.echo(f"written: {path}", err=True)


def write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    typer.echo(f"written: {path}", err=True)


def print_table(built: Table) -> None:
    """On a terminal a drawn table; into a pipe Markdown, which survives a copy into an issue."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        typer.echo(_text(built, Format.md).rstrip("\n"))
        return
    from rich.markup import escape
    from rich.table import Table as Grid

    grid = Grid(title=escape(built.caption), title_justify="left", title_style="bold", box=None, pad_edge=False)
    for place, heading in enumerate(built.headings):
        grid.add_column(escape(heading), justify="left" if place < built.labels else "right")
    for row in built.cells:
        grid.add_row(*(f"[bold]{escape(cell.text)}[/]" if cell.best else escape(cell.text) for cell in row))
    console.print(grid)
    for note in built.notes:
        console.print(note, style="dim", markup=False, highlight=False)
