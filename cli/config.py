"""``qexp config``: what a run would do, without doing it."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from qexp.cli.run import Overrides

EPILOG = (
    "[bold]Examples[/]\n\n"
    "qexp config\n\n"
    "qexp config model=tiny_opt task=wikitext2 --diff scale=paper\n\n"
    "qexp config method=clipped_softmax --diff 'method=gated_attention seed=2000'"
)


def config(
    overrides: Overrides = None,
    diff: Annotated[
        list[str] | None,
        typer.Option("--diff", metavar="OVERRIDES", help="Show only what these further overrides would change."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the composed configuration of a run, every key with its value, or how it differs from another."""
    from qexp.runner.compose import compose_dict

    composed = compose_dict(overrides or [])
    if diff:
        _print_difference(composed, overrides or [], " ".join(diff), as_json)
    elif as_json:
        typer.echo(json.dumps(composed, indent=2, ensure_ascii=False))
    else:
        _print_yaml(composed)


def _print_yaml(composed: dict[str, Any]) -> None:
    import yaml
    from rich.console import Console
    from rich.syntax import Syntax

    text = yaml.safe_dump(composed, sort_keys=False, allow_unicode=True, width=10_000).rstrip()
    console = Console()
    if console.is_terminal and not console.no_color:
        console.print(Syntax(text, "yaml", theme="ansi_dark", background_color="default"), soft_wrap=True)
    else:
        typer.echo(text)


def _print_difference(composed: dict[str, Any], overrides: list[str], diff: str, as_json: bool) -> None:
    import shlex

    from qexp.runner.compose import compose_dict, compose_difference
    from qexp.runner.overrides import replace

    other = compose_dict(replace(overrides, shlex.split(diff)))
    differences = compose_difference(composed, other)
    if as_json:
        typer.echo(json.dumps({key: [before, after] for key, before, after in differences}, indent=2))
        return
    if not differences:
        typer.echo("no difference")
        return
    from rich.console import Console
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("key", " ".join(overrides) or "default", f"with {diff}"):
        grid.add_column(heading, overflow="fold")
    for key, before, after in differences:
        grid.add_row(f"[bold]{key}[/]", _shown(before), _shown(after))
    Console().print(grid)


def _shown(value: Any) -> str:
    from rich.markup import escape

    return "–" if value is None else escape(value if isinstance(value, str) else json.dumps(value))
