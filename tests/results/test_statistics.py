from __future__ import annotations

import math
from itertools import combinations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from qexp.results.statistics import Summary, differs, sign_flips, splits, summarize, welch

figures = st.floats(-1e6, 1e6)


def test_the_spread_is_the_sample_standard_deviation() -> None:
    assert summarize([1.0, 3.0]) == Summary(2.0, math.sqrt(2.0), 2)


def test_a_single_measurement_has_no_spread() -> None:
    assert summarize([4.5]) == Summary(4.5, None, 1)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_what_has_no_mean_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        summarize(values)


@given(figures, st.floats(0, 1e3), figures, st.floats(0, 1e3))
def test_differing_is_symmetric_and_means_that_the_printed_bands_do_not_touch(
    mean_a: float, std_a: float, mean_b: float, std_b: float
) -> None:
    a, b = Summary(mean_a, std_a, 2), Summary(mean_b, std_b, 2)
    assert differs(a, b) == differs(b, a)
    if differs(a, b):
        low, high = sorted((a, b), key=lambda s: s.mean)
        assert low.mean + (low.std or 0) <= high.mean - (high.std or 0) + 1e-6


def test_without_a_known_spread_nothing_differs() -> None:
    assert not differs(Summary(1.0, None, 1), Summary(100.0, 0.1, 3))


def test_welch_against_its_closed_form() -> None:
    a, b = [1.0, 2.0, 4.0], [6.0, 7.0, 7.5, 9.0]
    parts = [summarize(side) for side in (a, b)]
    errors = [(one.std or 0) ** 2 / one.n for one in parts]
    t = (parts[0].mean - parts[1].mean) / math.sqrt(sum(errors))
    freedom = sum(errors) ** 2 / sum(error**2 / (one.n - 1) for error, one in zip(errors, parts, strict=True))
    from scipy.special import stdtr

    assert welch(a, b) == pytest.approx(2 * stdtr(freedom, -abs(t)))


def test_welch_of_a_sample_that_does_not_vary_is_a_test_of_the_other_one() -> None:
    assert welch([0.0625, 0.0625], [0.125, 0.0]) == 1.0
    assert welch([1.0, 1.0, 1.0], [2.0, 2.1, 2.2]) == pytest.approx(ttest_1samp([2.0, 2.1, 2.2], 1.0).pvalue)


def test_welch_without_a_known_spread() -> None:
    assert welch([1.0, 1.0], [1.0, 1.0]) == 1.0
    assert welch([1.0, 1.0], [2.0, 2.0]) is welch([1.0], [2.0, 3.0]) is None


values = st.lists(st.integers(-9, 9).map(float), min_size=2, max_size=5)


@settings(max_examples=25)
@given(values)
def test_sign_flips_against_all_of_them(differences: list[float]) -> None:
    means = [
        sum(s * d for s, d in zip(flip, differences, strict=True)) for flip in product((1, -1), repeat=len(differences))
    ]
    expected = sum(abs(mean) >= abs(sum(differences)) for mean in means) / len(means)
    assert sign_flips(differences) == pytest.approx(expected)


@settings(max_examples=25)
@given(values, values)
def test_splits_against_all_of_them(a: list[float], b: list[float]) -> None:
    both = a + b
    gaps = []
    for chosen in combinations(range(len(both)), len(a)):
        first = [both[i] for i in chosen]
        gaps.append(sum(first) / len(a) - (sum(both) - sum(first)) / len(b))
    found = sum(a) / len(a) - sum(b) / len(b)
    sides = [sum(gap <= found + 1e-9 for gap in gaps), sum(gap >= found - 1e-9 for gap in gaps)]
    assert splits(a, b) == pytest.approx(min(1.0, 2 * min(sides) / len(gaps)))


def test_what_is_the_same_does_not_differ() -> None:
    assert sign_flips([0.0, 0.0, 0.0]) == splits([1.0, 2.0], [2.0, 1.0]) == 1.0
    assert sign_flips([1.0, 2.0, 3.0]) == 0.25, "three seeds cannot do better"
