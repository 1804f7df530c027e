"""Verdicts: intervals that confirm, refute or leave open, and what is never judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from qexp.conf.tables import TableConfig
from qexp.results.claims import CONFIRMED, NOT_HERE, REFUTED, TOO_FEW, Measured, Verdict, holm, judge
from qexp.results.outcomes import Outcomes

BETTER = [0.90, 0.91, 0.92]


def spec(*claims: dict[str, Any]) -> TableConfig:
    made = [{"name": f"c{n}", "text": "t", "row": "a", "than": "b", **claim} for n, claim in enumerate(claims)]
    rows = [{"label": name} for name in "ab"]
    return TypeAdapter(TableConfig).validate_python(
        {"title": "t", "rows": rows, "columns": [{"label": "x"}], "claims": made}
    )


def verdict(
    kind: str, a: Sequence[float], b: Sequence[float], *, higher: bool = True, scale: str = "small", **more: Any
) -> str:
    cells = {(row, "x"): Measured(dict(enumerate(v)), {}, higher) for row, v in (("a", a), ("b", b))}
    return judge(spec({"kind": kind, **more}), cells, scale)[0].verdict


@pytest.mark.parametrize(
    ("kind", "shift", "margin", "expected"),
    [
        ("less", -0.1, None, CONFIRMED),
        ("less", 0.1, None, REFUTED),
        ("less", 0.0, None, TOO_FEW),
        ("less", -0.1, 0.2, REFUTED),
        ("greater", 0.1, None, CONFIRMED),
        ("greater", -0.1, None, REFUTED),
        ("at_least", 0.0, 0.05, CONFIRMED),
        ("at_least", -0.1, 0.05, REFUTED),
        ("at_least", -0.05, 0.05, TOO_FEW),
        ("within_spread", 0.0, 0.05, CONFIRMED),
        ("within_spread", 0.0, None, CONFIRMED),
        ("within_spread", 0.1, 0.05, REFUTED),
        ("within_spread", 0.05, 0.05, TOO_FEW),
    ],
)
def test_where_the_interval_lies_decides(kind: str, shift: float, margin: float | None, expected: str) -> None:
    noise = (-0.001, 0.0, 0.001)
    a = [value + shift + off for value, off in zip(BETTER, noise, strict=True)]
    assert verdict(kind, a, BETTER, margin=margin) == expected


def test_lower_may_be_better() -> None:
    assert verdict("less", [9.0, 9.1, 9.3], [5.0, 5.2, 5.1], higher=False) == CONFIRMED


def test_perplexities_are_compared_by_their_logarithm() -> None:
    """Halved at every seed: certain, although the figures themselves lie decades apart."""
    a, b = [10.0, 101.0, 1002.0], [20.0, 200.0, 2000.0]
    for logarithmic, expected in ((False, TOO_FEW), (True, CONFIRMED)):
        sides = (("a", a), ("b", b))
        cells = {(row, "x"): Measured(dict(enumerate(v)), {}, False, logarithmic) for row, v in sides}
        (found,) = judge(spec({"kind": "greater"}), cells, "small")
        assert found.verdict == expected
    assert found.numbers.startswith(
        '"a" is better than "b" by 0.6892 in the logarithm of perplexity, 95 % interval +0.67'
    )


def test_noise_needs_more_seeds() -> None:
    assert verdict("less", [0.80, 0.99, 0.85], BETTER) == TOO_FEW


def test_no_variance_decides() -> None:
    assert verdict("less", BETTER, BETTER) == REFUTED
    assert verdict("within_spread", [0.5] * 3, [0.5] * 3) == CONFIRMED
    assert verdict("less", [0.25] * 3, [0.5] * 3) == TOO_FEW, "a step of the metric, thrice, is no known spread"
    assert verdict("less", [0.25] * 6, [0.5] * 6) == CONFIRMED


def test_fewer_than_three_seeds_and_small_scales() -> None:
    assert verdict("less", [0.1, 0.2], [0.9, 0.9]) == TOO_FEW
    assert verdict("less", [0.1] * 3, BETTER, scale="smoke") == NOT_HERE


def test_equal_needs_one_seed_and_no_tolerance() -> None:
    assert verdict("equal", [0.5], [0.5]) == CONFIRMED
    assert verdict("equal", [0.5, 0.5], [0.5, 0.5000001]) == REFUTED
    assert verdict("equal", [], []) == TOO_FEW


def test_survivors_of_divergence_are_not_judged() -> None:
    cells = {
        ("a", "x"): Measured(dict(enumerate([*BETTER])), {3: "diverged"}),
        ("b", "x"): Measured(dict(enumerate([0.1, 0.1, 0.2, 0.1]))),
    }
    found = judge(spec({"kind": "greater"}), cells, "small")[0]
    assert found.verdict == TOO_FEW and "3 diverged" in found.line


def of_examples(values: Sequence[int], examples: str = "e") -> Outcomes:
    """Predictions of examples that are all of class 1."""
    return Outcomes("class", np.array(values), np.ones(len(values), int), examples)


def test_examples_are_told_where_both_sides_have_the_same_ones() -> None:
    a, b = of_examples([1] * 9 + [0]), of_examples([0] * 9 + [1])
    cells = {
        ("a", "x"): Measured({1: 0.9, 2: 0.9}, outcomes={1: a, 2: a}.get),
        ("b", "x"): Measured({1: 0.1, 2: 0.1}, outcomes={1: b, 2: of_examples([0] * 10, "other")}.get),
    }
    (found,) = judge(spec({"kind": "greater"}), cells, "small")
    assert found.verdict == TOO_FEW, "examples decide nothing"
    assert found.numbers.endswith("Per example: 1 lost, 9 won, McNemar p = 0.021 (seed 1)")
    assert [(one.seed, one.n, one.p) for one in found.examples] == [(1, 10, pytest.approx(22 / 1024))]
    (alone,) = judge(spec({"kind": "greater"}), {**cells, ("b", "x"): Measured({1: 0.1})}, "small")
    assert not alone.examples and "example" not in alone.numbers


def test_of_several_columns_the_sums_are_told() -> None:
    claim = {"name": "c", "text": "t", "kind": "greater", "row": "a", "than": "b"}
    table = {"title": "t", "rows": [{"label": "a"}, {"label": "b"}], "columns": [{"label": "x"}, {"label": "y"}]}
    sides = {"a": of_examples([1, 1, 0]), "b": of_examples([0, 1, 1])}
    cells = {(row, column): Measured({7: 0.5}, outcomes={7: sides[row]}.get) for row in "ab" for column in "xy"}
    (found,) = judge(TypeAdapter(TableConfig).validate_python({**table, "claims": [claim]}), cells, "small")
    assert found.numbers.endswith("Per example of 2 columns: 2 lost, 2 won (seed 7)") and len(found.examples) == 2


def two_columns(**claim: Any) -> TableConfig:
    columns = [{"label": "W8A8", "figure": "w8a8"}, {"label": "Float", "figure": "float"}]
    columns.append({"label": "norm", "figure": "outliers.max_inf_norm", "higher_is_better": False})
    made = {"name": "c", "text": "t", "kind": "less", "row": "a", **claim}
    return TypeAdapter(TableConfig).validate_python(
        {"title": "t", "rows": [{"name": "a", "label": "as it is"}], "columns": columns, "claims": [made]}
    )


def test_two_columns_of_one_row() -> None:
    claims = two_columns(columns=["W8A8"], than_columns=["Float"])
    float_ = [0.9, 0.91, 0.92]
    lost = [value - 0.1 - off for value, off in zip(float_, (0.0, 0.001, 0.002), strict=True)]
    cells = {("a", name): Measured(dict(enumerate(v))) for name, v in (("W8A8", lost), ("Float", float_))}
    (found,) = judge(claims, cells, "small")
    assert found.verdict == CONFIRMED and found.numbers.startswith(
        '"as it is" on "W8A8" is worse than "as it is" on "Float" by 0.101'
    )
    (missing,) = judge(claims, {**cells, ("a", "Float"): Measured({0: 0.9}, missing=(1,))}, "small")
    assert missing.numbers == 'No record yet: "as it is" on "Float" (seed 1)'


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        ({}, "compares 'a' with itself"),
        ({"columns": ["W8A8"], "than_columns": ["W8A8"]}, "compares 'a' with itself"),
        ({"columns": ["W8A8"], "than_columns": ["Flaot"]}, "unknown column 'Flaot'; did you mean Float"),
        ({"than_columns": ["Float"]}, "one of than_columns for each of columns"),
        ({"columns": ["W8A8"], "than_columns": ["norm"]}, "all show a metric, or all another number"),
    ],
)
def test_columns_that_cannot_be_compared_are_refused(claim: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        two_columns(**claim)


def test_one_tested_claim_needs_no_correction() -> None:
    (claim,) = spec({"kind": "less"}).claims
    assert holm([Verdict(claim, CONFIRMED, "n", 0.04)])[0].line.endswith("n, p = 0.04.")


def test_holm_takes_back_what_only_one_test_confirms() -> None:
    claims = spec({"kind": "less"}, {"kind": "less"}, {"kind": "less"}, {"kind": "equal"}).claims
    made = [Verdict(claim, CONFIRMED, "n", p) for claim, p in zip(claims, (0.04, 0.001, 0.03, None), strict=True)]
    assert [one.verdict for one in holm(made)] == [TOO_FEW, CONFIRMED, TOO_FEW, CONFIRMED]
    assert "p = 0.001 (0.003 after Holm's correction for 3 claims)" in holm(made)[1].line


@pytest.mark.parametrize(
    ("kind", "figures", "than", "margin", "expected"),
    [
        ("equal", [1.0, 1.0], 1.0, None, CONFIRMED),
        ("equal", [1.0, 0.98], 1.0, None, REFUTED),
        ("less", BETTER, 2.0, None, CONFIRMED),
        ("at_least", BETTER, 0.8, 0.0, CONFIRMED),
        ("greater", BETTER, 2.0, None, REFUTED),
        ("greater", BETTER[:2], 0.5, None, TOO_FEW),
    ],
)
def test_a_number_can_stand_for_the_other_row(
    kind: str, figures: list[float], than: float, margin: float | None, expected: str
) -> None:
    assert verdict(kind, figures, [], than=than, **({} if margin is None else {"margin": margin})) == expected


def test_a_number_of_lower_is_better_keeps_its_side() -> None:
    assert verdict("greater", BETTER, [], than=2.0, higher=False) == CONFIRMED
    (one,) = judge(spec({"kind": "less", "than": 2}), {("a", "x"): Measured(dict(enumerate(BETTER)))}, "small")
    assert one.numbers.startswith('"a" is worse than 2 by 1.09')


def test_a_number_has_no_columns() -> None:
    with pytest.raises(ValidationError, match="a number has no than_columns"):
        spec({"kind": "less", "than": 2.0, "columns": ["x"], "than_columns": ["x"]})
