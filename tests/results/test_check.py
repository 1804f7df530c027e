"""The comparison of the regression gate, on made-up figures, and the committed expectations themselves."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from qexp.conf.errors import UserError
from qexp.results.check import Cell, Tolerance, moved, read, write

TOLERANCES = {"perplexity": Tolerance(0.01, True, "rounding"), "accuracy": Tolerance(0.125, False, "one of 8")}
CELL = Cell("made_up", ("seed=1",), {"float": {"perplexity": 200.0, "accuracy": 0.5}})


def lines(perplexity: float, accuracy: float = 0.5) -> list[str]:
    return moved(CELL, {"float": {"perplexity": perplexity, "accuracy": accuracy}}, TOLERANCES)


def test_figures_within_their_tolerances_have_not_moved() -> None:
    assert lines(200.0) == lines(202.0) == lines(198.0) == lines(200.0, 0.625) == lines(200.0, 0.375) == []


def test_a_figure_beyond_its_tolerance_is_one_line() -> None:
    assert lines(202.5) == ["made_up float perplexity: expected 200.0, found 202.5, tolerance 2"]
    assert lines(202.5, 0.75)[0] == "made_up float accuracy: expected 0.5, found 0.75, tolerance 0.125"
    assert len(lines(197.5, 0.25)) == 2


def test_what_is_not_a_number_or_not_there_has_moved() -> None:
    assert len(lines(math.nan)) == 1
    (missing, *_), (new, *_) = moved(CELL, {}, TOLERANCES), moved(Cell("new", (), {}), CELL.figures, TOLERANCES)
    assert "found None" in missing and "expected None" in new


def test_a_metric_without_a_tolerance_is_refused() -> None:
    with pytest.raises(UserError, match="no tolerance for accuracy"):
        moved(CELL, {}, {})


def test_expectations_are_read_as_they_were_written(tmp_path: Path) -> None:
    expected = read()
    write(expected, tmp_path / "again.json")
    assert read(tmp_path / "again.json") == expected
    assert all(one.why for one in expected.tolerances.values())
    assert all(not moved(cell, cell.figures, expected.tolerances) for cell in expected.cells)


def test_without_expectations_one_line_says_where_they_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not part of an installed qexp: run `qexp check` in a clone"):
        read(tmp_path / "smoke.json")
    (tmp_path / "smoke.json").write_text('{"cells": 3}')
    with pytest.raises(UserError, match="holds no expectations"):
        read(tmp_path / "smoke.json")
