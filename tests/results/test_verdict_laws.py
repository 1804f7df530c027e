"""Laws of verdicts: which changes of the records must not change them, and what may never be confirmed."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from qexp.conf.tables import TableConfig
from qexp.results.claims import CONFIRMED, REFUTED, TOO_FEW, Measured, judge

steps = st.integers(-400, 400).map(lambda count: count / 1024)  # sums of these are exact
seeds = st.lists(st.tuples(steps, steps), min_size=3, max_size=6)
margins = st.integers(0, 64).map(lambda count: count / 1024)
SWAPPED = {"less": "greater", "greater": "less", "within_spread": "within_spread", "equal": "equal"}
OPPOSITE = {CONFIRMED: REFUTED, REFUTED: CONFIRMED, TOO_FEW: TOO_FEW}


def verdict(kind: str, pairs: list[tuple[float, float]], margin: float | None = None, **more: Any) -> str:
    claim = {"name": "c", "text": "t", "kind": kind, "row": "a", "than": "b", "margin": margin}
    spec = TypeAdapter(TableConfig).validate_python(
        {"title": "t", "rows": [{"label": "a"}, {"label": "b"}], "columns": [{"label": "x"}], "claims": [claim]}
    )
    a, b = ({seed: pair[side] for seed, pair in enumerate(pairs)} for side in (0, 1))
    return judge(spec, {("a", "x"): Measured(a, **more), ("b", "x"): Measured(b, **more)}, "small")[0].verdict


@given(pairs=seeds, kind=st.sampled_from(sorted(SWAPPED)))
def test_swapping_the_rows_swaps_the_claim(pairs: list[tuple[float, float]], kind: str) -> None:
    assert verdict(kind, pairs) == verdict(SWAPPED[kind], [(b, a) for a, b in pairs])


@given(pairs=seeds, margin=margins)
def test_no_worse_is_the_opposite_of_worse(pairs: list[tuple[float, float]], margin: float) -> None:
    assert verdict("at_least", pairs, margin) == OPPOSITE[verdict("less", pairs, margin)]


@given(pairs=seeds, shift=steps, kind=st.sampled_from(sorted(SWAPPED)))
def test_a_constant_added_to_both_rows_changes_nothing(
    pairs: list[tuple[float, float]], shift: float, kind: str
) -> None:
    assert verdict(kind, pairs) == verdict(kind, [(a + shift, b + shift) for a, b in pairs])


@given(pairs=seeds, kind=st.sampled_from(sorted(SWAPPED)), data=st.data())
def test_the_order_of_seeds_does_not_matter(pairs: list[tuple[float, float]], kind: str, data: st.DataObject) -> None:
    assert verdict(kind, pairs) == verdict(kind, data.draw(st.permutations(pairs)))


@given(pairs=seeds, kind=st.sampled_from(["less", "greater", "within_spread"]))
def test_a_metric_that_is_better_lower_turns_the_sign(pairs: list[tuple[float, float]], kind: str) -> None:
    assert verdict(kind, pairs, higher_is_better=False) == verdict(kind, [(-a, -b) for a, b in pairs])


@given(pairs=seeds, kind=st.sampled_from(["less", "greater", "within_spread"]))
def test_a_missing_or_lost_run_is_never_judged_away(pairs: list[tuple[float, float]], kind: str) -> None:
    assert verdict(kind, pairs, missing=(99,)) == TOO_FEW
    assert verdict(kind, pairs, problems={99: "diverged"}) == TOO_FEW


@given(pair=st.tuples(steps, steps), kind=st.sampled_from(["less", "greater", "within_spread"]))
def test_three_seeds_one_step_apart_decide_nothing(pair: tuple[float, float], kind: str) -> None:
    same = pair[0] == pair[1]
    assert (verdict(kind, [pair] * 3) == TOO_FEW) != same


def test_more_of_the_same_noise_confirms_no_equivalence() -> None:
    assert verdict("within_spread", [(0.80, 0.90), (0.90, 0.80), (0.85, 0.86)], 0.01) == TOO_FEW
