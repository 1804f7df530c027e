"""Tables in a paper's shape: which figure a cell shows, what is missing, and the paper's figure beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from qexp.conf.errors import UserError
from qexp.conf.tables import TableConfig
from qexp.results.export import to_csv, to_html, to_latex, to_markdown
from qexp.results.grid import Found, build
from qexp.results.schema import Record
from qexp.results.table import Table

SEEDS = (1, 2, 3)


def spec(**more: Any) -> TableConfig:
    content = {
        "title": "Grid",
        "rows": [{"label": "Float", "name": "float"}, {"label": "Ours", "name": "ours", "figure": "method"}],
        "columns": [{"label": "A"}, {"label": "B"}],
        **more,
    }
    return TypeAdapter(TableConfig).validate_python(content)


@pytest.fixture
def found(make: Any, executed: dict[str, Any]) -> dict[tuple[int, int, int], Record | None]:
    """Accuracies 0.8 and more in float, 0.1 less as executed, and B 0.1 above A."""
    kind = {"metric": "accuracy", "higher_is_better": True, "definition": "share"}
    made: dict[tuple[int, int, int], Record | None] = {}
    for seed in SEEDS:
        for x in range(2):
            base = 0.8 + 0.1 * x + 0.001 * seed
            task = {"task.name": "AB"[x]}
            made[seed, x, 0] = make(seed=seed, changes=task, float=base, **kind)
            ours = make("ours", seed=seed, changes=task, float=base, **kind)
            figure = replace(ours.metrics["float"]["accuracy"], value=base - 0.1)
            settings = {"method": ours.metrics["float"], "method.integer": {"accuracy": figure}}
            made[seed, x, 1] = replace(ours, metrics=settings, integer={"method": executed})
    return made


def made(found: Found, **more: Any) -> Table:
    return build(spec(**more), found, scale="small", command="qexp reproduce x/y --scale small")


def test_a_cell_shows_the_rows_figure_and_prefers_what_was_executed(found: Found) -> None:
    table = made(found)
    assert table.headings == ("method", "seeds", "A ↑", "B ↑")
    assert [[cell.text for cell in row] for row in table.cells] == [
        ["Float", "3", "0.8020 ± 0.0010", "0.9020 ± 0.0010"],
        ["Ours", "3", "0.7020 ± 0.0010", "0.8020 ± 0.0010"],
    ]
    assert [row[2].best for row in table.cells] == [True, False]
    assert table.cells[1][2].setting == "method.integer" and table.cells[1][2].certificate


def test_the_average_is_taken_seed_by_seed(found: Found) -> None:
    table = made({**found, (3, 1, 1): None}, average=True)
    assert table.headings[-1] == "average ↑"
    assert [row[-1].text for row in table.cells] == ["0.8520 ± 0.0010", "0.7515 ± 0.0007 (2 of 3)"]


def test_missing_and_diverged_cells_say_so(found: Found) -> None:
    lost = replace(found[1, 0, 0], status="diverged", metrics={}, message="NaN at step 3")  # type: ignore[type-var]
    table = made({**found, (1, 0, 0): lost, **dict.fromkeys([(seed, 1, 1) for seed in SEEDS])})
    assert [cell.text for cell in table.cells[0][1:3]] == ["2 of 3", "0.8025 ± 0.0007 (2 of 3)"]
    assert table.cells[0][2].problem == "diverged"
    assert [cell.text for cell in table.cells[1][1:]] == ["0 of 3", "0.7020 ± 0.0010", "–"]
    assert any("Float, A, seed=1: diverged (NaN at step 3)" in note for note in table.notes)
    assert any("3 of 12" in note and "qexp reproduce x/y --scale small" in note for note in table.notes)


def test_no_record_at_all_is_a_table_of_dashes() -> None:
    table = made({(1, x, y): None for x in range(2) for y in range(2)}, average=True)
    assert {cell.text for row in table.cells for cell in row[2:]} == {"–"}
    assert "–" in to_markdown(table) and to_csv(table).count("\n") == 7


def test_the_papers_figure_stands_beside_and_a_null_tells_why(found: Found) -> None:
    cells = {"ours": {"A": {"value": 0.71, "source": "Table 1"}, "B": {"value": None, "reason": "not printed"}}}
    table = made(found, published={"cells": cells})
    assert table.cells[1][2].text == "0.7020 ± 0.0010 (paper 0.71)" and "paper" not in table.cells[1][3].text
    assert any("ours B" in note and "not printed" in note for note in table.notes)
    head, *lines = to_csv(table).splitlines()
    assert head.endswith(",published") and lines[2].endswith(",0.71")


def test_verdicts_are_in_every_form(found: Found) -> None:
    claim = {"name": "worse", "text": "Ours loses", "kind": "less", "row": "ours", "than": "float"}
    table = made(found, claims=[claim])
    for text in (to_markdown(table), to_latex(table), to_html(table)):
        assert "Claim worse: not enough seeds. Ours loses." in text, "0.1 at every seed: no spread is known"
    assert 'worse,,claim,less,,,,not enough seeds,0,,"Ours loses. ' in to_csv(table)


def test_a_collapsed_run_and_an_uncommitted_one_are_told(found: Found, make: Any) -> None:
    kind = {"metric": "matthews_correlation", "higher_is_better": True, "definition": "Matthews"}
    lost = {
        (seed, 0, y): make(("vanilla", "ours")[y], seed=seed, float=0.0 if y else 0.5, **kind)
        for seed in SEEDS
        for y in range(2)
    }
    lost[1, 0, 0] = replace(lost[1, 0, 0], provenance={"git": {"commit": "c", "dirty": True}})
    rows = [{"label": "Float", "name": "float"}, {"label": "Ours", "name": "ours"}]
    told = " ".join(build(spec(rows=rows, columns=[{"label": "A"}]), lost, scale="small", command="c").notes)
    assert "No better than one answer for every example: Ours on A (seed 1, 2, 3)." in told
    assert "records come from a checkout with changes that were not committed" in told


def test_an_analysis_number(found: Found) -> None:
    with_share = {
        place: replace(one, analysis={"ours": {"share": 0.25}}) for place, one in found.items() if one is not None
    }
    table = made(with_share, columns=[{"label": "A"}, {"label": "share", "figure": "analysis.ours.share"}])
    assert table.headings[-1] == "share" and table.cells[0][-1].text.startswith("0.2500")


def test_a_column_never_mixes_formulas(found: Found, make: Any) -> None:
    other = make(seed=1, float=12.0)
    with pytest.raises(UserError, match="column 'A' would mix"):
        made({**found, (1, 0, 0): other})


def test_lists_of_overrides_are_rows_and_names_are_checked() -> None:
    plain = TypeAdapter(TableConfig).validate_python({"title": "t", "rows": [["method=vanilla"], []]})
    assert [row.overrides for row in plain.rows] == [("method=vanilla",), ()]
    with pytest.raises(ValidationError, match="unknown row 'flaot'; did you mean float"):
        spec(claims=[{"name": "c", "text": "t", "kind": "less", "row": "flaot", "than": "ours"}])


def test_numbers_of_the_outlier_summary_and_of_training(make: Any) -> None:
    summary = {"max_inf_norm": 20.0, "avg_kurtosis": 80.0, "inf_norm_roles": ["ffn_output"], "definition": "of rows"}
    columns = [
        {"label": "norm", "figure": "outliers.max_inf_norm", "higher_is_better": False},
        {"label": "kurtosis", "figure": "outliers.avg_kurtosis"},
        {"label": "time", "figure": "training.seconds_per_step"},
    ]
    record = replace(make(float=4.5, outliers=summary), training={"seconds_per_step": 0.25})
    without = make("ours", float=4.5)
    found = {(1000, x, y): (record, without)[y] for x in range(3) for y in range(2)}
    table = made(found, columns=columns)
    assert table.headings == ("method", "seeds", "norm ↓", "kurtosis", "time")
    assert [cell.text for cell in table.cells[0][2:]] == ["20.00", "80.00", "0.2500"]
    assert [cell.text for cell in table.cells[1][2:]] == ["not measured"] * 3


def test_columns_of_one_run_show_its_own_set_and_a_further_one(make: Any) -> None:
    columns = [{"label": "ID"}, {"label": "OOD", "metric": "perplexity@ptb"}, {"label": "C", "metric": "perplexity@c"}]
    found: dict[tuple[int, int, int], Record | None] = {}
    for y, factor in enumerate((1.0, 2.0)):
        record = make("vanilla" if y == 0 else "ours", seed=1, float=20.0 * factor)
        own = record.metrics["float"]["perplexity"]
        metrics = {"perplexity": own, "perplexity@ptb": replace(own, value=10 * own.value)}
        settings = {"float": metrics, "method": metrics}
        found |= {(1, x, y): replace(record, metrics=settings) for x in range(3)}
    table = made(found, columns=columns)
    assert table.headings == ("method", "seeds", "ID ↓", "OOD ↓", "C")
    assert [[cell.text for cell in row[2:]] for row in table.cells] == [
        ["20.00", "200.0", "not measured"],
        ["40.00", "400.0", "not measured"],
    ]
