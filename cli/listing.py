"""``qexp list``: what can be chosen, one line each, and the command that tries it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from qexp.conf.catalog import choices, did_you_mean, entry
from qexp.conf.errors import UserError

KINDS = {
    "methods": "method",
    "models": "model",
    "tasks": "task",
    "tables": "table",
    "scales": "scale",
    "quant": "quant",
    "train": "train",
    "tracking": "tracking",
    "launchers": "launcher",
}
EPILOG = "[bold]Examples[/]\n\nqexp list\n\nqexp list methods\n\nqexp list models --json"


def complete_kind(incomplete: str) -> list[str]:
    return [kind for kind in KINDS if kind.startswith(incomplete)]


def list_choices(
    kind: Annotated[
        str | None,
        typer.Argument(help=" ".join(KINDS), autocompletion=complete_kind, show_default=False, metavar="KIND"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List what can be chosen, one line each with the command that tries it; every kind at once without KIND."""
    kinds = [_known(kind)] if kind else list(KINDS)
    entries = {name: [entry(KINDS[name], choice) for choice in choices(KINDS[name])] for name in kinds}
    if as_json:
        listed = {name: [asdict(item) for item in items] for name, items in entries.items()}
        typer.echo(json.dumps(listed[kinds[0]] if kind else listed, indent=2, ensure_ascii=False))
        return
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    for name, items in entries.items():
        width = max((len(item.name) for item in items), default=0)
        if not kind:
            console.print(f"[bold]{name}[/]")
            console.print("  " + " ".join(item.name for item in items) if items else "  [dim]none yet[/]")
            continue
        if not items:
            console.print(f"no {name} yet")
        for item in items:
            console.print(f"[bold cyan]{item.name:<{width}}[/]  ", end="")
            console.print(item.about, markup=False)
            console.print(f"{'':<{width}}  [dim]$ {item.command}[/]")


def _known(kind: str) -> str:
    for name, group in KINDS.items():
        if kind in (name, group):
            return name
    raise UserError(f"unknown kind '{kind}'{did_you_mean(kind, tuple(KINDS)) or ';'} kinds: {', '.join(KINDS)}")
