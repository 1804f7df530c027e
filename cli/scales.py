"""``qexp show --scales``: a table of standard deviations before training, and a picture."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import typer

COLUMNS = {
    "weight": ("weight", "weight"),
    "activation": ("output", "output"),
    "gradient": ("gradient", "gradient at the output"),
    "weight_gradient": ("∂ weight", "gradient of the weight"),
    "bias_gradient": ("∂ bias", "gradient of the bias"),
}
"""Kind of a tensor -> heading, and in words."""
LISTED = 4
"""Tensors that a summary names."""


def show_scales(overrides: list[str], as_json: bool) -> None:
    """Print the scales of the run that ``overrides`` choose, and write their picture."""
    from qexp.runner.compose import compose
    from qexp.runner.scales import draw_scales, scales_of

    config = compose(overrides)
    found = scales_of(config)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    print_scales(found["scales"], found["band"])
    typer.echo(f"picture   {draw_scales(config, found)}")


def print_scales(scales: Mapping[str, Any], band: list[float]) -> None:
    """Rows of places in forward order; red, and named below, is what lies outside of ``band``."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    grid.add_column("standard deviation", overflow="fold")
    for heading, _ in COLUMNS.values():
        grid.add_column(heading, justify="right", no_wrap=True, min_width=len(heading))
    for place, kinds in scales.items():
        grid.add_row(escape(place), *(_cell(kinds.get(kind), band) for kind in COLUMNS))
    console = Console()
    console.print(grid)
    for line in _summary(scales, band):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _cell(found: Mapping[str, Any] | None, band: list[float]) -> str:
    if found is None:
        return ""
    text = f"{found['std']:.3g}"
    return text if _inside(found["std"], band) else f"[bold red]{text}[/]"


def _inside(std: float, band: list[float]) -> bool:
    return band[0] <= std <= band[1]


def _summary(scales: Mapping[str, Any], band: list[float]) -> Iterator[str]:
    tensors = [(place, kind, found) for place, kinds in scales.items() for kind, found in kinds.items()]
    outside = [(place, kind) for place, kind, found in tensors if not _inside(found["std"], band)]
    names = ", ".join(f"{COLUMNS[kind][1]} of {place}" for place, kind in outside[:LISTED])
    more = f" and {len(outside) - LISTED} more" if len(outside) > LISTED else ""
    yield f"within [{band[0]:g}, {band[1]:g}]: {len(tensors) - len(outside)} of {len(tensors)}" + (
        f"; outside: {names}{more}" if outside else ""
    )
    for name, loss in product(("fp16", "fp8"), ("underflow", "overflow")):
        cast = [(found[name], place, kind) for place, kind, found in tensors if name in found]
        worst, place, kind = max(cast, key=lambda tensor: float(tensor[0][loss]), default=({loss: 0.0}, "", ""))
        if worst[loss] > 0:
            yield f"{name} {loss}: up to {worst[loss]:.2%} of elements ({COLUMNS[kind][1]} of {place})"
