"""Verdicts: intervals that confirm, refute or leave open, and what is never judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import TypeAdapter

from qexp.conf.tables import TableConfig
from qexp.results.claims import CONFIRMED, NOT_HERE, REFUTED, TOO_FEW, Measured, Verdict, holm, judge

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
    assert found.numbers.startswith("a is better than b by 0.6892 in the logarithm of perplexity, 95 % interval +0.67")


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


def test_holm_takes_back_what_only_one_test_confirms() -> None:
    claims = spec({"kind": "less"}, {"kind": "less"}, {"kind": "less"}, {"kind": "equal"}).claims
    made = [Verdict(claim, CONFIRMED, "n", p) for claim, p in zip(claims, (0.04, 0.001, 0.03, None), strict=True)]
    assert [one.verdict for one in holm(made)] == [TOO_FEW, CONFIRMED, TOO_FEW, CONFIRMED]
    assert "by Holm over 3 0.003" in holm(made)[1].line
