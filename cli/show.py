"""``qexp show``: one record on a screen, or the sites or scales of a model."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qexp.cli.completion import complete_override
from qexp.conf.errors import UserError

if TYPE_CHECKING:
    from qexp.results.schema import Record
    from qexp.results.store import Store

EPILOG = (
    "[bold]Examples[/]\n\n"
    "qexp show 3f2a91                   the record whose id begins so\n\n"
    "qexp show --sites model=tiny_opt   every place that is quantized or measured\n\n"
    "qexp show --scales method=unit_scaling model=tiny_gpt2 task=wikitext2   standard deviations before training\n\n"
    "qexp show --scales 3f2a91          standard deviations in the training of a run with train.scales_every=50"
)
ResultsDir = Annotated[str, typer.Option("--results-dir", help="Folder of the records.", metavar="FOLDER")]


def show(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            help="A record's id or its beginning; with --sites, overrides; with --scales, either.",
            metavar="ID|OVERRIDES",
            autocompletion=complete_override,
            show_default=False,
        ),
    ] = None,
    sites: Annotated[bool, typer.Option("--sites", help="Show the sites of the model that OVERRIDES choose.")] = False,
    scales: Annotated[
        bool,
        typer.Option(
            "--scales", help="Show scales of tensors: before a run (OVERRIDES), or in a record's training (ID)."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    results_dir: ResultsDir = "runs",
) -> None:
    """Show a record again: figures, outliers, the command that makes it, and every product of its certificate.

    With --sites or --scales: what a run would quantize or measure, or how large its tensors are before training.
    A record's id with --scales: how large they were in its training, if that was run with train.scales_every.
    """
    if sites:
        _show_sites(what or [], as_json)
        return
    if scales:
        _show_scales(what or [], as_json, results_dir)
        return
    if not what or len(what) > 1:
        raise UserError(
            "qexp show takes one record id (`qexp table` lists records), or --sites or --scales and overrides"
        )
    from qexp.results.store import Store, to_json

    store = Store(Path(results_dir))
    record = store.find(what[0])
    if as_json:
        typer.echo(to_json(record), nl=False)
    else:
        _show_record(record, store)


def _show_scales(what: list[str], as_json: bool, results_dir: str) -> None:
    """Of a run that is still to be made, or where one word without ``=`` names it, of a record."""
    from qexp.cli.scales import show_scale_curves, show_scales

    if len(what) == 1 and "=" not in what[0]:
        show_scale_curves(what[0], results_dir, as_json)
    else:
        show_scales(what, as_json)


def _show_record(record: Record, store: Store) -> None:
    from rich.console import Console

    from qexp.cli.certificate import print_certificate
    from qexp.cli.summary import print_summary
    from qexp.runner.rerun import overrides_for

    console = Console()
    print_summary(console, record, store)
    made = record.provenance
    facts = [f"qexp {made.get('qexp', '?')}", f"torch {made.get('packages', {}).get('torch', '?')}"]
    facts += [str(made["started"])] if "started" in made else []
    lines = {
        "rerun": f"qexp run {shlex.join(overrides_for(record.config))}",
        "made by": ", ".join(facts),
        "outliers": record.outliers.get("summary", {}).get("definition", ""),
    }
    for name, text in lines.items():
        if text:
            console.print(f"{name:<9} {text}", markup=False, highlight=False, soft_wrap=True)
    for bits, found in record.integer.items():
        print_certificate(console, bits, found["certificate"])
    for method, proof in record.training.get("certificates", {}).items():
        print_certificate(console, f"a training step of {method}", proof)


def _show_sites(overrides: list[str], as_json: bool) -> None:
    from qexp.runner.compose import compose
    from qexp.runner.sites import sites_of

    listed = sites_of(compose(overrides))
    if as_json:
        typer.echo(json.dumps(listed, indent=2))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("role", "kind", "sites", "carries"):
        grid.add_column(heading, overflow="fold")
    for role, members in _by_role(listed).items():
        first = members[0]
        grid.add_row(f"[bold]{role}[/]", first["kind"], str(len(members)), escape(first["carries"]))
    console = Console()
    console.print(grid)
    console.print("[dim]quant.roles and quant.exclude take roles; --json lists every site by name[/]", highlight=False)


def _by_role(listed: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Sites of one role differ in their layer only, so one line stands for all of them."""
    grouped: dict[str, list[dict[str, Any]]] = {}
    for site in listed:
        grouped.setdefault(site["role"], []).append(site)
    return grouped
