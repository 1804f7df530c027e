"""Verdicts on a paper's claims: paired over seeds, with a 95 % interval and Holm's correction over the table's claims.

Per seed, d is the mean over the claim's columns of ``row`` minus ``than``, its sign such that positive means better.
Of perplexity the logarithm is compared, the mean negative log-likelihood: figures of different columns and seeds differ
by factors.
A claim is confirmed where the t interval of the mean d lies where the claim puts it, and refuted where it lies where
the claim does not, either only if the p-value at the claim's bound, adjusted by Holm for all claims of the table that
are tested, is below 0.05. Differences that are alike at every seed but not zero tell nothing of their spread (an
accuracy moves in steps of one example): the sign test's p = 2^(1 - n) stands in, which three seeds cannot bring below
0.05. Rows with the very same figures are not tested; they are the same.
Where records keep what every example contributed, the examples lost and won at each seed are told. They decide nothing:
two networks that differ on many examples may differ by their seeds alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from qexp.conf.tables import ClaimConfig, TableConfig
from qexp.results.evidence import ByExample, by_example, told
from qexp.results.statistics import LEVEL, Summary, interval, p_at, summarize

if TYPE_CHECKING:
    from collections.abc import Callable

    from qexp.results.outcomes import Outcomes

CONFIRMED, REFUTED = "confirmed", "refuted"
NOT_HERE, TOO_FEW = "not testable at this scale", "not enough seeds"
MIN_SEEDS = 3
NAMED = 3
"""How many cells without a record are named before the rest is counted."""


@dataclass(frozen=True)
class Measured:
    """One cell of a grid: finite figures by seed, and the seeds whose run gave none although it was made."""

    values: Mapping[int, float] = field(default_factory=dict)
    problems: Mapping[int, str] = field(default_factory=dict)
    higher_is_better: bool = True
    logarithmic: bool = False
    """Compared by the logarithm of its figures."""
    missing: tuple[int, ...] = ()
    """Seeds that have no record yet."""
    outcomes: Callable[[int], Outcomes | None] = lambda seed: None
    """What every example contributed at a seed; None where that is not known."""


Cells = Mapping[tuple[str, str], Measured]
"""By row and column, as the specification names them."""


@dataclass(frozen=True)
class Verdict:
    """What the records say about one claim. ``p``: of its test, before the correction; None where there was none."""

    claim: ClaimConfig
    verdict: str
    numbers: str
    p: float | None = None
    adjusted: float | None = None
    """p after the correction."""
    by_seed: tuple[Mapping[int, float], Mapping[int, float]] = ({}, {})
    """What was compared: either side's mean over the claim's columns, larger where better."""
    examples: tuple[ByExample, ...] = ()
    """Column by column and seed by seed, where both sides have them."""

    @property
    def line(self) -> str:
        text = self.claim.text.rstrip(".")
        return f"Claim {self.claim.name}: {self.verdict}. {text}. {self.numbers}."


def judge(spec: TableConfig, cells: Cells, scale: str) -> tuple[Verdict, ...]:
    """One verdict a claim of ``spec``, in its order."""
    judged = holm([_judge(spec, claim, cells, scale) for claim in spec.claims])
    return tuple(one if one.verdict == NOT_HERE else _with_examples(spec, one, cells) for one in judged)


def _with_examples(spec: TableConfig, verdict: Verdict, cells: Cells) -> Verdict:
    if verdict.claim.number is not None:
        return verdict
    found = [
        ByExample(column, seed, *counted)
        for (row, column), other in zip(*spec.sides(verdict.claim), strict=True)
        for seed in cells[row, column].values
        if (counted := by_example(cells[row, column].outcomes(seed), cells[other].outcomes(seed)))
    ]
    numbers = f"{verdict.numbers}. {told(found)}" if found else verdict.numbers
    return replace(verdict, numbers=numbers, examples=tuple(found))


def holm(verdicts: Sequence[Verdict]) -> tuple[Verdict, ...]:
    """Adjust the p-values for how many claims were tested; what only the unadjusted one decides needs more seeds."""
    tested = sorted((one.p, place) for place, one in enumerate(verdicts) if one.p is not None)
    judged, adjusted = list(verdicts), 0.0
    for rank, (p, place) in enumerate(tested):
        adjusted = max(adjusted, min(1.0, p * (len(tested) - rank)))
        one = verdicts[place]
        verdict = one.verdict if adjusted < LEVEL else TOO_FEW
        corrected = f" ({adjusted:.2g} after Holm's correction for {len(tested)} claims)" if len(tested) > 1 else ""
        judged[place] = replace(
            one, verdict=verdict, numbers=f"{one.numbers}, p = {p:.2g}{corrected}", adjusted=adjusted
        )
    return tuple(judged)


def _judge(spec: TableConfig, claim: ClaimConfig, cells: Cells, scale: str) -> Verdict:
    if not claim.testable_at(scale):
        return Verdict(claim, NOT_HERE, f"It is judged from scale={claim.min_scale} up")
    places = spec.sides(claim)
    sides = [[cells[place] for place in side] for side in places]
    if claim.number is not None:
        sides[1] = [_constant(cell, claim.number) for cell in sides[0]]
    seeds = [seed for seed in sides[0][0].values if all(seed in cell.values for side in sides for cell in side)]
    used = [cell for side in sides for cell in side]
    if claim.kind == "equal" and (unlike := _unlike(sides)):
        return Verdict(claim, REFUTED, unlike)
    lost = sorted({f"{seed} {what}" for cell in used for seed, what in cell.problems.items()})
    if lost:
        return Verdict(
            claim, TOO_FEW, f"Runs without a figure (seed {', '.join(lost)}): the others alone would flatter"
        )
    missing = _missing(spec, [place for side in places for place in side], cells)
    if claim.kind == "equal" and seeds:
        pairs = len(seeds) * len(sides[0])
        same = f"{pairs} of {pairs} pairs of figures are the same"
        return Verdict(claim, CONFIRMED, "; ".join(filter(None, [same, missing])))
    if missing:
        return Verdict(claim, TOO_FEW, missing)
    if len(seeds) < MIN_SEEDS:
        return Verdict(claim, TOO_FEW, f"{len(seeds)} of at least {MIN_SEEDS} seeds in both rows")
    averages = ({seed: _mean(sides[0], seed) for seed in seeds}, {seed: _mean(sides[1], seed) for seed in seeds})
    unit = " in the logarithm of perplexity" if any(cell.logarithmic for cell in used) else ""
    return replace(_tested(spec, claim, averages, seeds, unit), by_seed=averages)


def _constant(like: Measured, number: float) -> Measured:
    """A cell that has ``number`` at each seed of ``like``."""
    return Measured(dict.fromkeys(like.values, number), {}, like.higher_is_better, like.logarithmic)


def _missing(spec: TableConfig, places: Sequence[tuple[str, str]], cells: Cells) -> str:
    """``No record yet: "INT8" on "CoLA" (seed 1001)``: judging what happens to be there invites stopping early."""
    lacking = [(row, column, cells[row, column].missing) for row, column in places]
    lines = [
        f"{spec.named(row, column)} (seed {', '.join(map(str, seeds))})" for row, column, seeds in lacking if seeds
    ]
    more = f" and {len(lines) - NAMED} more cells" if len(lines) > NAMED else ""
    return f"No record yet: {', '.join(lines[:NAMED])}{more}" if lines else ""


def _mean(side: Sequence[Measured], seed: int) -> float:
    """The average over the columns, larger where better."""
    figures = [math.log(cell.values[seed]) if cell.logarithmic else cell.values[seed] for cell in side]
    signs = [1 if cell.higher_is_better else -1 for cell in side]
    return math.fsum(figure * sign for figure, sign in zip(figures, signs, strict=True)) / len(side)


def _unlike(sides: Sequence[Sequence[Measured]]) -> str:
    """How many of all pairs that are there differ, and by how much; empty where none does."""
    both = [
        (a.values[seed], b.values[seed]) for a, b in zip(*sides, strict=True) for seed in a.values if seed in b.values
    ]
    unlike = [abs(a - b) for a, b in both if a != b]
    return f"{len(unlike)} of {len(both)} pairs differ, by up to {max(unlike):.4g}" if unlike else ""


def _tested(
    spec: TableConfig, claim: ClaimConfig, averages: Sequence[Mapping[int, float]], seeds: Sequence[int], unit: str
) -> Verdict:
    found = summarize([averages[0][seed] - averages[1][seed] for seed in seeds])
    if found.mean == found.std == 0:
        return Verdict(claim, _where(claim.kind, 0.0, 0.0, claim.margin or 0.0), f"The same at all {found.n} seeds")
    margin = claim.margin or 0.0
    if claim.kind == "within_spread" and claim.margin is None:
        margin = math.fsum(summarize(side.values()).std or 0.0 for side in averages)
    low, high = interval(found)
    against = f" against a margin of {margin:.4g}" if margin or claim.kind == "within_spread" else ""
    row, than = spec.compared(claim)
    numbers = (
        f"{row} is {'worse' if found.mean < 0 else 'better'} than {than} by {abs(found.mean):.4g}{unit}, "
        f"95 % interval {low:+.4g} to {high:+.4g} (positive: better), {found.n} seeds{against}"
    )
    return Verdict(claim, _where(claim.kind, low, high, margin), numbers, _p(claim.kind, found, margin))


def _where(kind: str, low: float, high: float, margin: float) -> str:
    """The verdict of an interval of d, before the correction."""
    confirmed, refuted = {
        "less": (high < -margin, low >= -margin),
        "greater": (low > margin, high <= margin),
        "at_least": (low >= -margin, high < -margin),
        "within_spread": (-margin <= low and high <= margin, high < -margin or low > margin),
    }[kind]
    return CONFIRMED if confirmed else REFUTED if refuted else TOO_FEW


def _p(kind: str, found: Summary, margin: float) -> float:
    """Two-sided p of the mean lying at the bounds that the claim sets, the larger of two bounds."""
    bounds = {"greater": (margin,), "within_spread": (-margin, margin)}.get(kind, (-margin,))
    return max(p_at(found, bound) for bound in bounds)
