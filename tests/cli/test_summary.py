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

from qexp.cli.analysis import print_analysis
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


def test_the_largest_kurtoses_before_and_after_take_eight_lines_at_most(new_record: Callable[..., Record]) -> None:
    def lines(tensors: dict[str, Any]) -> list[str]:
        found = {"kurtosis_qat": {"kind": "weight_kurtosis", "target": 1.8, "tensors": tensors}, "silent": {}}
        console = Console(file=io.StringIO(), width=60)
        print_analysis(console, replace(new_record("seed=1"), analysis=found))
        return console.file.getvalue().splitlines()  # type: ignore[attr-defined]

    tensors: dict[str, Any] = {
        f"layers.{i}.query_weight": {"before": 3.0 + i, "after": 2.0, "selected": i < 8, "share": 0.1} for i in range(9)
    }
    tensors["layers.9.dead_weight"] = {"before": None, "after": None, "selected": False, "share": 0.0}
    shown = lines(tensors)
    assert len(shown) == 8 and "8 of 9 tensors selected" in shown[0]
    assert shown[1].split() == ["11", "→", "2", "layers.8.query_weight,", "left", "out"]
    assert shown[-1].split() == ["mean", "of", "the", "other", "3:", "4", "→", "2"]
    assert len(lines({})) == 1


def test_scales_are_told_by_their_spread_and_what_they_left_of_the_errors(new_record: Callable[..., Record]) -> None:
    scales = {"layers.0.ffn_norm": {"min": 0.25, "max": 3.0, "channels": 8}}
    errors = [{"before": 4.0, "after": 1.0}, {"before": 2.0, "after": 1.0}, {"before": 0.0, "after": 0.0}]
    found = {"quadapter": {"kind": "scales", "scales": scales, "block_errors": errors}}
    console = Console(file=io.StringIO(), width=100)
    print_analysis(console, replace(new_record("seed=1"), analysis=found))
    first, second = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert first == "quadapter: scales · 8 in 1 places, 0.25 to 3"
    assert second.strip() == "error left of each block's by the first phase: median 38%, 25% to 50%"
