"""``qexp doctor``: what this machine can do."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import Annotated

import typer


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON and nothing else.")] = False,
    network: Annotated[bool, typer.Option("--network", help="Also ask the Hugging Face hub for an answer.")] = False,
) -> None:
    """Show what this machine can do, and the command that mends what it cannot.

    Looks at Python, torch, GPU, instruction sets, INT8 back ends, the W&B login, data in QEXP_DATA_DIR and packages.
    """
    from qexp.runner.devices import build_native
    from qexp.runner.doctor import examine

    build_native(lambda text: typer.echo(text, err=True))
    checks = examine(os.environ.get("QEXP_DATA_DIR"), network)
    if as_json:
        typer.echo(json.dumps([asdict(check) for check in checks], indent=2))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    colours = {"ok": "green", "missing": "red", "note": "yellow"}
    console = Console()
    table = Table(box=None, pad_edge=False, show_header=False)
    for check in checks:
        table.add_row(f"[{colours[check.status]}]{check.status}[/]", check.name, escape(check.found))
    console.print(table)
    if mendable := [check for check in checks if check.mend]:
        console.print("\nWhat would mend it:")
    for check in mendable:
        console.print(f"  {check.name}: {check.mend}", markup=False, highlight=False, soft_wrap=True)
