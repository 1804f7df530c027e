"""Figures on the screen."""

from __future__ import annotations

import math

import pytest

from qexp.cli.summary import format_figure


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.869, "0.8690"),
        (15.25, "15.25"),
        (1834.2, "1,834"),
        (1.5e7, "1.500e+07"),
        (0.0, "0.0"),
        (0.0000123, "0.0000"),
        (math.nan, "not finite"),
        (math.inf, "not finite"),
    ],
)
def test_four_significant_digits(value: float, text: str) -> None:
    assert format_figure(value) == text


def test_a_difference_has_its_sign() -> None:
    assert (format_figure(2.75, "+"), format_figure(-2.75, "+")) == ("+2.750", "-2.750")
