"""``qexp compare``: two records, or the settings of one, with what chance alone makes of the difference."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qexp.cli.show import ResultsDir
from qexp.conf.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from qexp.results.compare import Figures, Seeds
    from qexp.results.schema import Record

EPILOG = (
    "[bold]Examples[/]\n\n"
    "qexp compare 3f2a91 77b0c2   what the second gains over the first, setting by setting\n\n"
    "qexp compare 3f2a91          what quantization costs: every setting against float"
)
Id = typer.Argument(help="A record's id or its beginning.", metavar="ID", show_default=False)


def compare(
    first: Annotated[str, Id],
    second: Annotated[
        str | None,
        typer.Argument(help="Another; without it every setting of the first against float.", metavar="[ID]"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    results_dir: ResultsDir = "runs",
) -> None:
    """Compare two records example by example, and over the seeds at which both experiments were run.

    Examples tell whether two trained networks differ, only seeds whether the methods do.
    """
    from qexp.results import compare as records
    from qexp.results.store import Store

    store = Store(Path(results_dir))
    a = store.find(first)
    b = a if second is None else store.find(second)
    lines, seeds = records.compare(a, b), records.over_seeds(a, b, store.query(), _experiment)
    if as_json:
        found = [{**asdict(one), "p": one.p} for one in lines]
        typer.echo(
            json.dumps({"a": a.cell_id, "b": b.cell_id, "within_seed": found, "over_seeds": [*map(asdict, seeds)]})
        )
        return
    _print(a, b, lines, seeds)


def _experiment(record: Record) -> str:
    """The identity of a record but for its seed; its own where this version does not take its configuration."""
    from qexp.runner.identity import cell_id
    from qexp.runner.rerun import config_of

    try:
        return cell_id(replace(config_of(record.config), seed=0))
    except UserError:
        return record.cell_id


def _print(a: Record, b: Record, lines: Sequence[Figures], seeds: Sequence[Seeds]) -> None:
    from rich.console import Console

    from qexp.cli.summary import title
    from qexp.results.compare import differing

    console = Console(highlight=False)
    told = f"{b.cell_id[:8]}  {title(b)}" if b is not a else "each setting of the same record"
    console.print(f"[bold]A[/] {a.cell_id[:8]}  {title(a)}{', float' if b is a else ''}", soft_wrap=True)
    console.print(f"[bold]B[/] {told}", soft_wrap=True)
    for key, (one, other) in differing(a, b).items():
        console.print(f"  {key}: {one} / {other}", style="dim", markup=False, soft_wrap=True)
    metrics = {one.metric for one in lines}
    heading = metrics.pop().replace("_", " ") if len(metrics) == 1 else ""
    _print_figures(console, heading, lines)
    if seeds:
        _print_seeds(console, heading, seeds)
    else:
        console.print("over seeds: no two seeds have both", style="dim")


def _print_figures(console: Console, heading: str, lines: Sequence[Figures]) -> None:
    """One row a figure with the tests beside it, and what they are."""
    from qexp.cli.summary import format_figure

    rows = []
    for one in lines:
        found, counted = one.interval, one.examples
        rows.append(
            [
                *(_name(one, heading), format_figure(one.a), format_figure(one.b), f"{one.difference:+.4g}"),
                *(_between(found.low, found.high) if found else "–", _p(found.p if found else None)),
                *(f"{counted.lost} / {counted.won}" if counted else "–", _p(one.p)),
            ]
        )
    _print_grid(console, [heading, "A", "B", "B better by", "95 % interval", "p", "lost / won", "p"], rows)
    for note in _notes(lines):
        console.print(note, style="dim", markup=False, soft_wrap=True)


def _notes(lines: Sequence[Figures]) -> list[str]:
    sizes = sorted({one.examples.n for one in lines if one.examples})
    told = "interval and p: examples drawn again; lost / won: examples, p by McNemar's test, of losses by the sign test"
    notes = [f"{told}; {' or '.join(f'{size:,}' for size in sizes)} examples"] if sizes else []
    if any(one.metric.startswith("perplexity") for one in lines):
        notes.append("of perplexity the logarithm is compared")
    missing: dict[str, list[str]] = defaultdict(list)
    for one in lines:
        if one.why_not:
            missing[one.why_not].append(_name(one, ""))
    return [*notes, *(f"not by example: {why} ({', '.join(names)})" for why, names in missing.items())]


def _print_seeds(console: Console, heading: str, lines: Sequence[Seeds]) -> None:
    rows = [
        [
            *(_name(one, heading), f"{one.difference:+.4g}", _between(one.low, one.high)),
            *(_p(one.p_t), _p(one.p_sign_flips), _p(one.p_welch)),
        ]
        for one in lines
    ]
    console.print(f"over seeds {', '.join(map(str, lines[0].seeds))}, with p by three tests")
    _print_grid(console, [heading, "B better by", "95 % interval", "paired t", "sign flips", "Welch"], rows)


def _name(one: Figures | Seeds, heading: str) -> str:
    """The setting, with the metric where the heading does not say it."""
    return one.setting if heading else f"{one.setting} {one.metric}"


def _between(low: float, high: float) -> str:
    return f"{low:+.3g} to {high:+.3g}"


def _p(p: float | None) -> str:
    return "–" if p is None else f"{p:.2g}"


def _print_grid(console: Console, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, heading in enumerate(headings):
        grid.add_column(heading, justify="right" if place else "left")
    for row in rows:
        grid.add_row(*row)
    console.print(grid)
