"""The deviation ledger: which values are not the paper's, and where."""

from __future__ import annotations

from typing import Any

from qexp.results.ledger import Deviation, deviations, ledger_note
from qexp.results.select import labelled

ROWS, COLUMNS = ["A", "B"], ["x", "y"]


def config(**changes: Any) -> dict[str, Any]:
    base = {"scale": "small", "seed": 1, "results_dir": "runs", "method": [{"name": "vanilla", "settings": {}}]}
    return labelled({**base, "train": {"max_steps": 10}, "model": {"name": "tiny", "path": None}, **changes})


def ledger(here: dict[tuple[int, int], dict[str, Any]]) -> tuple[Deviation, ...]:
    paper = config(scale="paper", results_dir="elsewhere", seed=2)
    return deviations(here, dict.fromkeys(here, paper), ROWS, COLUMNS)


def test_what_changes_no_figure_is_no_deviation() -> None:
    assert ledger({(x, y): config() for x in range(2) for y in range(2)}) == ()
    assert ledger_note(()) == ()


def test_a_deviation_names_the_cells_that_share_it() -> None:
    short = config(train={"max_steps": 5})
    for places, where in (
        ([(0, 0), (0, 1), (1, 0), (1, 1)], "every cell"),
        ([(0, 1), (1, 1)], "B"),
        ([(1, 0), (1, 1)], "y"),
        ([(1, 1)], "B on y"),
        ([(0, 0), (1, 1)], "2 of 4 cells"),
    ):
        cells = {(x, y): short if (x, y) in places else config() for x in range(2) for y in range(2)}
        assert ledger(cells) == (Deviation("train.max_steps", "5", "10", where),)


def test_the_note_tells_another_model_by_its_name_alone() -> None:
    changed = config(model={"name": "other", "path": "p"}, train={"max_steps": 5})
    cells = {(x, y): changed if x else config() for x in range(2) for y in range(2)}
    (note,) = ledger_note(ledger(cells))
    assert note == "Not as at scale=paper: model.name other instead of tiny (y), train.max_steps 5 instead of 10 (y)."
