from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qexp.results.statistics import Summary, differs, summarize

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
