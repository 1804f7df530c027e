"""``qexp show --scales``: a table of standard deviations before training, or of a record's training, and a picture."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from qexp.conf.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = {
    "weight": ("weight", "weight"),
    "activation": ("output", "output"),
    "gradient": ("gradient", "gradient at the output"),
    "weight_gradient": ("∂ weight", "gradient of the weight"),
    "bias_gradient": ("∂ bias", "gradient of the bias"),
}
"""Kind of a tensor -> heading, and in words."""
EVERY = 4
"""Powers of two between the scales at which signal to noise is printed."""
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
    print_casting(found["casting"])
    typer.echo(f"picture   {draw_scales(config, found)}")


def show_scale_curves(record_id: str, results_dir: str, as_json: bool) -> None:
    """Print the scales that a record has of its training, and where their picture is."""
    from rich.console import Console

    from qexp.cli.summary import title
    from qexp.results.scale_curves import in_words
    from qexp.results.store import Store

    store = Store(Path(results_dir))
    record = store.find(record_id)
    scales = record.training.get("scales")
    if not scales:
        raise UserError(f"record {record.cell_id} has no scales of its training: run it with train.scales_every=50")
    if as_json:
        typer.echo(json.dumps(scales, indent=2))
        return
    console = Console()
    console.print(title(record), highlight=False)
    console.print(_courses(scales))
    for name, words in in_words(scales):
        console.print(f"{name}: {words}", markup=False, highlight=False, soft_wrap=True)
    if picture := record.artifacts.get("scales"):
        path = store.path(record.config["table"], record.cell_id).parent / picture
        console.print(f"picture   {path}", markup=False, highlight=False, soft_wrap=True)


def _courses(scales: Mapping[str, Any]) -> Table:
    """First, last, lowest and highest scale of each tensor, by kind; red outside of the band."""
    from rich.markup import escape
    from rich.table import Table

    from qexp.results.scale_curves import courses
    from qexp.results.scale_plot import MARKS

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column("standard deviation", overflow="fold")
    for heading in ("first", "last", "lowest", "at step", "highest", "at step"):
        grid.add_column(heading, justify="right", no_wrap=True)
    for kind, tensors in courses(scales).items():
        grid.add_row(f"[bold]{MARKS[kind][0]}[/]")
        for one in tensors:
            ends = (_coloured(one.points[at][1], scales["band"]) for at in (0, -1))
            extremes = ((_coloured(std, scales["band"]), str(step)) for step, std in (one.lowest, one.highest))
            grid.add_row(escape(one.place), *ends, *(cell for pair in extremes for cell in pair))
    return grid


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


def print_casting(noise: Mapping[str, Any]) -> None:
    """Signal to noise of casting normal numbers to each format, at every fourth power of two."""
    from rich.console import Console
    from rich.table import Table

    shown = [(place, power) for place, power in enumerate(noise["exponents"]) if power % EVERY == 0]
    grid = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    grid.add_column("SNR of casting [dB]")
    for _, power in shown:
        grid.add_column(f"2^{power}", justify="right", no_wrap=True)
    for name, curve in noise["snr_db"].items():
        grid.add_row(name, *("–" if curve[place] is None else f"{curve[place]:.1f}" for place, _ in shown))
    Console().print(grid)


def _cell(found: Mapping[str, Any] | None, band: list[float]) -> str:
    return "" if found is None else _coloured(found["std"], band)


def _coloured(std: float, band: list[float]) -> str:
    return f"{std:.3g}" if _inside(std, band) else f"[bold red]{std:.3g}[/]"


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
