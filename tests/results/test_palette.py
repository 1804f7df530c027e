"""The report's colours by the formula of WCAG 2.2: text at least 4.5 from what is behind it, lines and marks 3."""

from __future__ import annotations

import itertools
import re

import pytest

from qexp.results.html import TEMPLATES

CSS = (TEMPLATES / "page.css").read_text() + (TEMPLATES / "report.css").read_text()
TEXT = ("ink", "soft", "link", "good", "bad", "open")
SCHEMES = ("light", "dark")


def colours(name: str) -> list[tuple[str, str]]:
    """Every ``light-dark(...)`` that a custom property is set to."""
    return re.findall(rf"--{name}: light-dark\((#\w+), (#\w+)\)", CSS)


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_formula() -> None:
    assert contrast("#000", "#ffffff") == pytest.approx(21) and contrast("#777", "#777777") == pytest.approx(1)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_text_on_every_background(scheme: str) -> None:
    place = SCHEMES.index(scheme)
    for text, behind in itertools.product(TEXT, ("paper", "raised")):
        assert contrast(colours(text)[0][place], colours(behind)[0][place]) >= 4.5, (text, behind)
    assert contrast(colours("ink")[0][place], colours("mark")[0][place]) >= 4.5


@pytest.mark.parametrize("scheme", SCHEMES)
def test_lines_of_curves_on_paper(scheme: str) -> None:
    place = SCHEMES.index(scheme)
    hues = colours("hue")
    assert len(hues) == 6
    assert all(contrast(hue[place], colours("paper")[0][place]) >= 3 for hue in hues)


def test_numbers_on_every_step_of_a_heat_map() -> None:
    steps = dict(re.findall(r"\.h(\d) \{ background: (#\w+); \}", CSS))
    assert len(steps) == 10
    for step, behind in steps.items():
        assert contrast("#fff" if step in "789" else "#111", behind) >= 4.5, step
