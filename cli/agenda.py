"""An agenda on the terminal: a line a table, then what all of it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from qexp.cli.progress import duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qexp.runner.agenda import Agenda, Item
    from qexp.runner.predict import Total

GIGABYTE = 1e9


def print_agenda(agenda: Agenda, tables: Sequence[str], scale: str) -> None:
    """``table  experiments  done …  to run  predicted``, and the sum, in which shared experiments count once."""
    from qexp.runner.agenda import STATES

    seen = [state for state in STATES if agenda.counts()[state]]
    headings = ["table", "experiments", *seen, "to run", "predicted"]
    rows = [_row(agenda, name, seen) for name in tables]
    if len(tables) > 1:
        rows.append(["all", *_row(agenda, None, seen)[1:]])
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    for row in (headings, *rows):
        first, *others = (f"{cell:{'<' if place == 0 else '>'}{widths[place]}}" for place, cell in enumerate(row))
        typer.echo("  ".join([first, *others]).rstrip())
    typer.echo(_sentence(agenda.total(), scale))


def print_items(items: Sequence[Item]) -> None:
    """A line an experiment."""
    for item in items:
        typer.echo(f"{item.cell}  {item.state:<9} {item.name}")


def _row(agenda: Agenda, table: str | None, states: Sequence[str]) -> list[str]:
    counts = agenda.counts(table)
    numbers = [sum(counts.values()), *(counts[state] for state in states), len(agenda.to_run(table))]
    return [table or "", *(f"{number:,}" for number in numbers), _time(agenda.total(table))]


def _time(cost: Total) -> str:
    """``2 h 05 min``, ``2 h 05 min + ?`` where some of it is unknown, ``?`` where all is."""
    if not cost.experiments:
        return "–"
    known = duration(cost.seconds) if cost.seconds else ""
    return " + ".join(filter(None, [known, "?" if cost.unknown else ""]))


def _sentence(cost: Total, scale: str) -> str:
    """What there is to do in words; times are those of one process after another."""
    if not cost.experiments:
        return f"Nothing to run at scale={scale}: every experiment has its record."
    parts = [f"{cost.experiments:,} experiments to run at scale={scale}"]
    if cost.unshared:
        shared = (
            f" instead of {cost.unshared:,}, since experiments share them" if cost.unshared > cost.trainings else ""
        )
        saved = f" (saves {duration(cost.saved)})" if cost.saved else ""
        parts.append(f"{cost.trainings:,} networks to train{shared}{saved}")
    parts.append(f"{_time(cost)} in one process" if cost.seconds else "no earlier record tells how long")
    if cost.memory:
        parts.append(f"up to {cost.memory / GIGABYTE:.1f} GB of memory")
    if cost.disk:
        more = " and more" if cost.unknown_disk else ""
        parts.append(f"{cost.disk / GIGABYTE:.1f} GB{more} of disk for networks")
    told = " `?`: nothing near enough has been measured." if cost.unknown and cost.seconds else ""
    return "; ".join(parts) + "." + told
