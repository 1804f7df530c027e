"""Figures on the screen."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from qexp.cli.summary import format_figure, print_summary
from qexp.results.schema import Metric, Record
from qexp.results.store import Store


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


FORMULA = "exp(mean loss), predicting each token"


@pytest.fixture
def further(new_record: Callable[..., Record], executed: dict[str, Any]) -> Record:
    """A record of three settings on the task's own set and on two further ones."""
    made = new_record("seed=1")

    def on(factor: float) -> dict[str, Metric]:
        values = {"perplexity": 20.0, "perplexity@ptb": 210.0, "perplexity@other text": 1200.0}
        places = {"perplexity": "wikitext-2-v1, split test", "perplexity@ptb": "ptb, split test"}
        return {
            name: Metric(factor * value, False, 10, f"{FORMULA}; {places.get(name, 'other text')}; windows of 8")
            for name, value in values.items()
        }

    metrics = {"float": on(1.0), "w8a8": on(1.25), "w8a8.integer": on(1.5)}
    return replace(made, metrics=metrics, integer={"w8a8": executed})


def shown(record: Record, folder: Path) -> list[str]:
    out = io.StringIO()
    print_summary(Console(file=out, width=80), record, Store(folder))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_further_sets_stand_below_the_tasks_own_and_fit_eighty_columns(further: Record, tmp_path: Path) -> None:
    lines = shown(further, tmp_path)
    first = next(i for i, line in enumerate(lines) if line.startswith("setting"))
    rows = [line.split("   ") for line in lines[first : first + 10]]
    assert [row[0].strip() for row in rows] == [
        *("setting", "float", "w8a8 simulated", "w8a8 executed"),
        *("float on ptb", "w8a8 simulated on ptb", "w8a8 executed on ptb"),
        *("float on other text", "w8a8 simulated on other text", "w8a8 executed on other text"),
    ]
    figures = [[part.strip() for part in row[1:] if part.strip()] for row in rows]
    assert figures[0] == ["perplexity", "difference"]
    assert figures[4:7] == [["210.0"], ["262.5", "+52.50"], ["315.0", "+105.0"]]


def test_of_a_further_set_only_what_differs_is_defined(further: Record, tmp_path: Path) -> None:
    lines = shown(further, tmp_path)
    assert f"perplexity: {FORMULA}; wikitext-2-v1, split test;" in lines
    assert "perplexity on ptb: the same; ptb, split test" in lines
    assert "perplexity on other text: the same; other text" in lines
