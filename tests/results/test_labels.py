"""How a model with planted outliers is named, and that it shares no row with the one without."""

from __future__ import annotations

from collections.abc import Callable

from qexp.results.schema import Record
from qexp.results.table import build

Make = Callable[..., Record]
PLANTED = {"channels": 4, "factor": 64.0, "roles": None, "seed": 0}


def test_planted_outliers_are_in_the_models_name(make: Make) -> None:
    records = [make(float=64.0), make(float=64.5, changes={"model.plant_outliers": PLANTED})]
    table = build(records)
    assert table.headings[0] == "model"
    assert [row[0].text for row in table.cells] == ["minilm", "minilm (planted 4 x 64)"]
    assert build(records[1:]).caption == "Perplexity of minilm (planted 4 x 64) on wikitext2, scale=small"


def test_where_they_are_planted_is_told_where_it_differs(make: Make) -> None:
    wider = {**PLANTED, "roles": ["value", "up"]}
    table = build([make(float=64.0, changes={"model.plant_outliers": one}) for one in (PLANTED, wider)])
    assert [row[table.headings.index("roles")].text for row in table.cells] == ["[value,up]", "null"]


def test_nothing_planted_is_what_an_earlier_record_says(make: Make) -> None:
    records = [make(seed=1, float=64.0), make(seed=2, float=66.0, changes={"model.plant_outliers": None})]
    assert len(build(records).cells) == 1
