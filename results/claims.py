"""Verdicts on a paper's claims: paired over seeds, with a 95 % interval and Holm's correction over the table's claims.

Per seed, d is the mean over the claim's columns of ``row`` minus ``than``, its sign such that positive means better.
A claim is confirmed where the t interval of the mean d lies where the claim puts it *and* the p-value of being there,
adjusted by Holm for all claims of the table that are tested, is below 0.05; it is refuted by the interval alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from qexp.conf.tables import ClaimConfig, TableConfig
from qexp.results.statistics import Summary, summarize

CONFIRMED, REFUTED = "confirmed", "refuted"
NOT_HERE, TOO_FEW = "not testable at this scale", "not enough seeds"
LEVEL = 0.05
MIN_SEEDS = 3


@dataclass(frozen=True)
class Measured:
    """One cell of a grid: finite figures by seed, and the seeds whose run gave none although it was made."""

    values: Mapping[int, float] = field(default_factory=dict)
    problems: Mapping[int, str] = field(default_factory=dict)
    higher_is_better: bool = True


Cells = Mapping[tuple[str, str], Measured]
"""By row and column, as the specification names them."""


@dataclass(frozen=True)
class Verdict:
    """What the records say about one claim. ``p``: of its test before the correction; None where there was none."""

    claim: ClaimConfig
    verdict: str
    numbers: str
    p: float | None = None

    @property
    def line(self) -> str:
        text = self.claim.text.rstrip(".")
        return f"Claim {self.claim.name}: {self.verdict}. {text}. {self.numbers}."


def judge(spec: TableConfig, cells: Cells, scale: str) -> tuple[Verdict, ...]:
    """One verdict a claim of ``spec``, in its order."""
    return holm([_judge(spec, claim, cells, scale) for claim in spec.claims])


def holm(verdicts: Sequence[Verdict]) -> tuple[Verdict, ...]:
    """Adjust the p-values for how many claims were tested; what only the unadjusted one confirms needs more seeds."""
    tested = sorted((one.p, place) for place, one in enumerate(verdicts) if one.p is not None)
    judged, adjusted = list(verdicts), 0.0
    for rank, (p, place) in enumerate(tested):
        adjusted = max(adjusted, min(1.0, p * (len(tested) - rank)))
        one = verdicts[place]
        verdict = TOO_FEW if one.verdict == CONFIRMED and adjusted >= LEVEL else one.verdict
        numbers = f"{one.numbers}, p = {p:.2g}, by Holm over {len(tested)} {adjusted:.2g}"
        judged[place] = replace(one, verdict=verdict, numbers=numbers)
    return tuple(judged)


def _judge(spec: TableConfig, claim: ClaimConfig, cells: Cells, scale: str) -> Verdict:
    if not claim.testable_at(scale):
        return Verdict(claim, NOT_HERE, f"It is judged from scale={claim.min_scale} up")
    columns = spec.columns_of(claim)
    sides = [[cells[row, column] for column in columns] for row in (claim.row, claim.than)]
    seeds = [seed for seed in sides[0][0].values if all(seed in cell.values for side in sides for cell in side)]
    if claim.kind == "equal":
        return _equal(claim, sides, seeds)
    lost = sorted({f"{seed} {what}" for side in sides for cell in side for seed, what in cell.problems.items()})
    if lost:
        return Verdict(
            claim, TOO_FEW, f"Runs without a figure (seed {', '.join(lost)}): the others alone would flatter"
        )
    if len(seeds) < MIN_SEEDS:
        return Verdict(claim, TOO_FEW, f"{len(seeds)} of at least {MIN_SEEDS} seeds in both rows")
    averages = [{seed: _mean(side, seed) for seed in seeds} for side in sides]
    return _tested(claim, averages, seeds)


def _mean(side: Sequence[Measured], seed: int) -> float:
    """The average over the columns, larger where better."""
    return math.fsum(cell.values[seed] * (1 if cell.higher_is_better else -1) for cell in side) / len(side)


def _equal(claim: ClaimConfig, sides: Sequence[Sequence[Measured]], seeds: Sequence[int]) -> Verdict:
    if not seeds:
        return Verdict(claim, TOO_FEW, "No seed has figures in both rows")
    pairs = [(a.values[seed], b.values[seed]) for a, b in zip(*sides, strict=True) for seed in seeds]
    unlike = [abs(a - b) for a, b in pairs if a != b]
    if not unlike:
        return Verdict(claim, CONFIRMED, f"{len(pairs)} of {len(pairs)} pairs of figures are the same")
    return Verdict(claim, REFUTED, f"{len(unlike)} of {len(pairs)} pairs differ, by up to {max(unlike):.4g}")


def _tested(claim: ClaimConfig, averages: Sequence[Mapping[int, float]], seeds: Sequence[int]) -> Verdict:
    found = summarize([averages[0][seed] - averages[1][seed] for seed in seeds])
    margin = claim.margin or 0.0
    if claim.kind == "within_spread" and claim.margin is None:
        margin = math.fsum(summarize(side.values()).std or 0.0 for side in averages)
    low, high = interval(found)
    against = f" against a margin of {margin:.4g}" if margin or claim.kind == "within_spread" else ""
    numbers = (
        f"{claim.row} is better than {claim.than} by {found.mean:+.4g}, 95 % interval {low:+.4g} to {high:+.4g}, "
        f"{found.n} seeds{against}"
    )
    return Verdict(claim, _where(claim.kind, low, high, margin), numbers, _p(claim.kind, found, margin))


def _where(kind: str, low: float, high: float, margin: float) -> str:
    """The verdict of an interval of d; a single point (no variance) always decides."""
    confirmed, refuted = {
        "less": (high < -margin, low >= -margin),
        "greater": (low > margin, high <= margin),
        "at_least": (low > -margin or low == high == -margin, high < -margin),
        "within_spread": (-margin <= low and high <= margin, high < -margin or low > margin),
    }[kind]
    return CONFIRMED if confirmed else REFUTED if refuted else TOO_FEW


def interval(found: Summary) -> tuple[float, float]:
    """The 95 % interval of the mean by Student's t; the mean itself where the differences have no variance."""
    from scipy.special import stdtrit

    half = float(stdtrit(found.n - 1, 1 - LEVEL / 2)) * _standard_error(found)
    return found.mean - half, found.mean + half


def _p(kind: str, found: Summary, margin: float) -> float:
    """Two-sided p of the mean lying at the bounds that the claim sets, the larger of two bounds."""
    bounds = {"greater": (margin,), "within_spread": (-margin, margin)}.get(kind, (-margin,))
    return max(_p_at(found, bound) for bound in bounds)


def _p_at(found: Summary, bound: float) -> float:
    from scipy.special import stdtr

    error = _standard_error(found)
    if error == 0:
        return 0.0  # every seed says the same: there is nothing to test
    return float(2 * stdtr(found.n - 1, -abs(found.mean - bound) / error))


def _standard_error(found: Summary) -> float:
    """Of the mean; differences that are alike but for rounding have none."""
    std = found.std or 0.0
    return 0.0 if std <= 1e-12 * max(1.0, abs(found.mean)) else std / math.sqrt(found.n)
