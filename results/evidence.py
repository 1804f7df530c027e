"""What single examples say beside a verdict: how many one side lost and won at each seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from qexp.results.outcomes import Kind, Outcomes
from qexp.results.paired import alike, lost_and_won, mcnemar

UNITS = {"class": "example", "score": "example", "loss": "window", "answer": "question"}


class Counted(NamedTuple):
    kind: Kind
    n: int
    lost: int
    won: int


@dataclass(frozen=True)
class ByExample:
    """Of ``n`` examples those on which the claim's first side is worse (``lost``) and better (``won``)."""

    column: str
    seed: int
    kind: Kind
    n: int
    lost: int
    won: int

    @property
    def p(self) -> float:
        """Of losing and winning with the same chance: McNemar's exact test, for losses and scores the sign test."""
        return mcnemar(self.lost, self.won)


def by_example(a: Outcomes | None, b: Outcomes | None) -> Counted | None:
    """None where one side has no outcomes, or they are about unlike examples."""
    if a is None or b is None or not alike(a, b):
        return None
    return Counted(a.kind, len(a.values), *lost_and_won(a, b))


def told(found: Sequence[ByExample]) -> str:
    """``Per example: 23 lost, 41 won, McNemar p = 0.03 (seed 1000)``; of several columns the sums."""
    unit = UNITS[found[0].kind]
    columns = {one.column for one in found}
    if len(columns) == 1:
        test = "McNemar" if found[0].kind == "class" else "sign test"
        lines = [f"{one.lost} lost, {one.won} won, {test} p = {one.p:.2g} (seed {one.seed})" for one in found]
        return f"Per {unit}: {'; '.join(lines)}"
    by_seed: dict[int, list[ByExample]] = defaultdict(list)
    for one in found:
        by_seed[one.seed].append(one)
    sums = [
        f"{sum(one.lost for one in members)} lost, {sum(one.won for one in members)} won (seed {seed})"
        for seed, members in by_seed.items()
    ]
    return f"Per {unit} of {len(columns)} columns: {'; '.join(sums)}"
