"""``qexp claims``: every claim of the papers, what the records say about it, and the numbers that rest on."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qexp.cli.sections import ScaleWithRecords, What, chosen_tables, sections
from qexp.cli.show import ResultsDir

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from qexp.results.claims import Verdict
    from qexp.results.section import Section

EPILOG = (
    "[bold]Examples[/]\n\n"
    "qexp claims\n\n"
    "qexp claims outlier_int8 --scale small\n\n"
    "qexp claims quantizable_transformers --json"
)
ONE_LINE = 10_000
"""Width of a pipe, in which nothing is wrapped."""
STYLES = {"confirmed": "green", "refuted": "red", "not enough seeds": "yellow"}


def claims(
    what: What = None,
    scale: ScaleWithRecords = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    results_dir: ResultsDir = "runs",
) -> None:
    """List every claim of the papers with its verdict and the numbers it rests on, from the records at hand."""
    from rich.console import Console

    from qexp.results.library import Library, committed
    from qexp.results.store import collector_paused

    with collector_paused():
        library = Library(Path(results_dir), committed())
        found = list(sections(chosen_tables(what or []), library, scale, own=results_dir))
    if as_json:
        typer.echo(json.dumps([_plain(one, verdict) for one in found for verdict in one.verdicts], indent=2))
    else:
        console = Console(highlight=False)
        _print(console if console.is_terminal else Console(highlight=False, width=ONE_LINE), found)


def _plain(section: Section, verdict: Verdict) -> dict[str, object]:
    return {
        "table": section.name,
        "paper": section.spec.paper,
        "scale": section.scale if section.measured else None,
        "claim": verdict.claim.name,
        "text": verdict.claim.text,
        "verdict": verdict.verdict,
        "numbers": verdict.numbers,
        "p": verdict.p,
        "p_after_holm": verdict.adjusted,
        "seeds": _over_seeds(verdict),
        "examples": [{**asdict(one), "p": one.p} for one in verdict.examples],
        "command": section.command,
    }


def _over_seeds(verdict: Verdict) -> dict[str, object] | None:
    """What was compared at each seed, and further tests of no difference; None for what was not tested."""
    from qexp.results.statistics import sign_flips, welch

    sides = [dict(side) for side in verdict.by_seed]
    if not sides[0]:
        return None
    differences = [sides[0][seed] - sides[1][seed] for seed in sides[0]]
    return {
        "row": sides[0],
        "than": sides[1],
        "p_sign_flips": sign_flips(differences),
        "p_welch": welch(list(sides[0].values()), list(sides[1].values())),
    }


def _print(console: Console, found: Sequence[Section]) -> None:
    from rich.padding import Padding
    from rich.text import Text

    from qexp.results.section import MARKS, tally_line

    for section in found:
        if not section.verdicts:
            continue
        source = f"arXiv {section.spec.paper}" if section.spec.paper else "no paper"
        state = f"scale={section.scale}" if section.measured else f"no record yet: {section.command}"
        console.print(
            Text.assemble((section.name, "bold"), f"  {section.spec.title} ", (f"({source}, {state})", "dim"))
        )
        for one in section.verdicts:
            style = STYLES.get(one.verdict, "dim")
            head = Text.assemble((f"{MARKS[one.verdict]} {one.verdict}", style), f"  {one.claim.text.rstrip('.')}.")
            console.print(Padding(head, (0, 0, 0, 2), expand=False))
            if one.numbers:
                numbers = Text.assemble((f"{one.claim.name}: ", "cyan"), (f"{one.numbers.rstrip('.')}.", "dim"))
                console.print(Padding(numbers, (0, 0, 0, 4), expand=False))
        console.print()
    console.print(tally_line(found))
