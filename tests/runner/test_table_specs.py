"""Every table's specification: it composes at all scales, and says where the papers' figures come from or why not."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from qexp.conf.catalog import SCALES, choices
from qexp.conf.tables import TableConfig
from qexp.runner.plan import cells, load_table, overrides_at, plan, table_names

NAMES = table_names()
PLACE = re.compile(r"\b(Table|Figure) \d+|notebook")
"""What a source must name: a place in a paper, or the authors' notebook."""


def spec(**more: Any) -> TableConfig:
    content = {"title": "t", "rows": [{"label": "A"}, {"label": "B"}], "columns": [{"label": "x"}], **more}
    return TypeAdapter(TableConfig).validate_python(content)


@pytest.mark.slow
def test_every_cell_composes_at_every_scale_and_every_recipe_serves_a_table() -> None:
    recipes = {"none"}
    for name in NAMES:
        for scale in SCALES:
            found = cells(name, [f"scale={scale}"], [1])
            assert {config.scale for config in found.values()} == {scale}
            recipes |= {config.train.name for config in found.values()}
            recipes |= {config.pretraining.train.name for config in found.values() if config.pretraining}
    assert recipes == set(choices("train"))


@pytest.mark.parametrize("name", ["quickstart", "kurtosis_qat/encoder"])
def test_cells_of_one_experiment_share_it(name: str) -> None:
    found = cells(name, ["scale=smoke"], [1])
    planned = plan(name, ["scale=smoke"], [1])
    assert 0 < len(planned) <= len(found)
    assert len(planned) == len({repr(config) for config in found.values()})


@pytest.mark.parametrize("name", NAMES)
def test_published_figures_say_where_they_stand(name: str) -> None:
    table = load_table(name)
    published = table.published
    assert bool(table.columns) <= (published is not None), "a grid says what the paper has, or why it has nothing"
    if published is None or published.cells is None:
        return
    listed = [figure for by_column in published.cells.values() for figure in by_column.values()]
    assert all(PLACE.search(figure.source) for figure in listed if figure.value is not None)
    complete = len(listed) == len(table.rows) * len(table.columns)
    assert complete or published.reason, "why the paper has no figure in the other cells"


@pytest.mark.parametrize("name", NAMES)
def test_a_table_names_its_paper_or_says_that_there_is_none(name: str) -> None:
    table = load_table(name)
    assert table.title and table.note
    assert table.paper or not table.claims


def test_what_stands_in_at_a_scale_comes_on_top_of_its_own_part() -> None:
    table = spec(
        common=["model=bert_base", "model.dimensions.tie=false", "task=books"],
        scales={"small": ["model=tiny_bert"]},
        rows=[{"label": "A", "overrides": ["method=qat", "seed=1"], "scales": {"paper": ["method=lsq"]}}],
        columns=[{"label": "x", "overrides": ["quant=mse"], "scales": {"small": ["quant.bits=w4a8"]}}],
    )
    row, column = table.rows[0], table.columns[0]
    small = ["task=books", "model=tiny_bert", "method=qat", "seed=1", "quant=mse", "quant.bits=w4a8"]
    paper = ["model=bert_base", "model.dimensions.tie=false", "task=books", "seed=1", "method=lsq", "quant=mse"]
    assert overrides_at("small", table, row, column) == small
    assert overrides_at("paper", table, row, column) == paper


def test_a_figure_in_short_has_the_tables_source() -> None:
    cells = {"A": {"x": "4.49 ± 0.01"}, "B": {"x": 3}}
    published = spec(published={"source": "Table 1", "cells": cells}).published
    assert published is not None and published.cells is not None
    a, b = published.cells["A"]["x"], published.cells["B"]["x"]
    assert (a.value, a.spread, a.source) == (4.49, 0.01, "Table 1")
    assert (b.value, b.spread, b.source) == (3.0, None, "Table 1")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"scales": {"tiny": ["seed=1"]}}, "scales"),
        ({"published": {"cells": {"A": {"x": "4.49 ± 0.01"}}}}, "needs a source"),
        ({"published": {"source": "Table 1", "cells": {"A": {"x": {"value": None}}}}}, "a null needs a reason"),
        ({"published": {"source": "Table 1", "cells": {"A": {"x": "about 4"}}}}, "number"),
        ({"published": {"source": "Table 1", "cells": {"C": {"x": 4}}}}, "unknown row 'C'"),
        ({"columns": [{"label": "x", "figure": "outliers.mean"}]}, "pattern"),
        ({"columns": [{"label": "x", "figure": "training.seconds", "metric": "accuracy"}]}, "has no metric"),
    ],
)
def test_what_a_specification_must_not_say(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        spec(**wrong)
