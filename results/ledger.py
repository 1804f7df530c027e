"""The deviation ledger: how a table's configurations differ from the same cells' at the paper's own scale."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qexp.conf.identity import VOLATILE_KEYS
from qexp.results.rows import ABSENT, WITHOUT_EFFECT
from qexp.results.select import Flat, text

Place = tuple[int, int]
"""Column and row of a cell, by their places in the specification."""
Configs = Mapping[Place, Flat]
"""The leaves of each cell's configuration, as :func:`qexp.results.select.labelled` gives them."""
NO_DEVIATION = ("scale", "seed", *WITHOUT_EFFECT)
"""The scale is what is compared; seeds are repetitions; the rest changes no figure."""
EVERY_CELL = "every cell"


@dataclass(frozen=True)
class Deviation:
    """One value that is not the paper's."""

    key: str
    here: str
    paper: str
    where: str
    """Rows or columns that it holds for."""


def deviations(here: Configs, paper: Configs, rows: Sequence[str], columns: Sequence[str]) -> tuple[Deviation, ...]:
    """Every key in which a cell of ``here`` differs from the same cell of ``paper``, with the cells that share it."""
    found: dict[tuple[str, str, str], set[Place]] = defaultdict(set)
    for place, ours in here.items():
        papers = paper[place]
        for key in dict.fromkeys([*ours, *papers]):
            if key in ours and key in papers and ours[key] == papers[key]:
                continue
            here_text, paper_text = _value(ours, key), _value(papers, key)
            if here_text != paper_text and key not in NO_DEVIATION and key.split(".")[0] not in VOLATILE_KEYS:
                found[key, here_text, paper_text].add(place)
    return tuple(
        Deviation(*told, _where(places, rows, columns))
        for told, places in sorted(found.items(), key=lambda one: one[0][0])
    )


def ledger_note(found: Sequence[Deviation]) -> tuple[str, ...]:
    """All deviations as one note for under a table; of another model only its name. Nothing where there are none."""
    other_model = any(one.key == "model.name" for one in found)
    told = [one for one in found if one.key == "model.name" or not (other_model and one.key.startswith("model."))]
    if not told:
        return ()
    lines = [f"{one.key} {one.here} instead of {one.paper}{_only(one.where)}" for one in told]
    return (f"Not as at scale=paper: {', '.join(lines)}.",)


def _only(where: str) -> str:
    return "" if where == EVERY_CELL else f" ({where})"


def _value(flat: Flat, key: str) -> str:
    return text(flat[key]) if key in flat else ABSENT


def _where(places: set[Place], rows: Sequence[str], columns: Sequence[str]) -> str:
    xs, ys = sorted({x for x, _ in places}), sorted({y for _, y in places})
    if len(places) < len(xs) * len(ys):
        return f"{len(places)} of {len(rows) * len(columns)} cells"
    named = ["; ".join(rows[y] for y in ys)] if len(ys) < len(rows) else []
    named += ["; ".join(columns[x] for x in xs)] if len(xs) < len(columns) else []
    return " on ".join(named) or EVERY_CELL
