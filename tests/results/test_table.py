from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qexp.conf.errors import UserError
from qexp.conf.published import PublishedFigure
from qexp.results.columns import Column
from qexp.results.rows import group
from qexp.results.schema import Record
from qexp.results.select import flatten
from qexp.results.statistics import Summary
from qexp.results.table import Cell, Table, best, build, number

Make = Callable[..., Record]
OUTLIERS = {"max_inf_norm": 20.0, "avg_kurtosis": 80.0, "inf_norm_roles": ["ffn_output"], "definition": "as the paper"}


def texts(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.cells]


def bold(table: Table) -> list[tuple[str, str]]:
    return [
        (row[0].text, heading)
        for row in table.cells
        for heading, cell in zip(table.headings, row, strict=True)
        if cell.best
    ]


def two_seeds(make: Make, method: str, *figures: float, **options: object) -> list[Record]:
    return [make(method, seed=seed, float=value, **options) for seed, value in enumerate(figures)]


def test_methods_by_settings_with_mean_and_spread_over_seeds(make: Make) -> None:
    records = [
        make("vanilla", seed=1, float=64.0, w8a8=66.0),
        make("vanilla", seed=2, float=66.0, w8a8=67.0),
        make("gated_attention", seed=1, float=63.0, w8a8=64.0),
    ]
    table = build(records)
    assert table.headings == ("method", "seeds", "float ↓", "W8A8 ↓")
    assert texts(table) == [
        ["vanilla", "2", "65.00 ± 1.41", "66.50 ± 0.71"],
        ["gated_attention", "1", "63.00", "64.00"],
    ]
    assert table.caption == "Perplexity of minilm on wikitext2, scale=small"
    assert "perplexity: exp(mean loss), windows of 64 tokens" in table.notes
    assert table.cells[0][2].summary == Summary(65.0, math.sqrt(2), 2)


def test_the_order_of_the_records_does_not_matter(make: Make) -> None:
    records = [
        make(method, seed=seed, float=50.0 + seed, w8a6=90.0, outliers=OUTLIERS, changes={"train.max_steps": steps})
        for method in ("vanilla", "gated_attention")
        for seed in (1, 2)
        for steps in (220, 1000, 30)
    ]
    expected = build(records)
    for turn in range(5):
        random.Random(turn).shuffle(records)
        assert build(records) == expected
    assert [row[1].text for row in expected.cells] == ["30", "220", "1000"] * 2, "numbers by size, the baseline first"


def test_settings_in_order_and_outlier_statistics_last(make: Make) -> None:
    record = make(outliers=OUTLIERS, w6a8=1.0, w8a8_integer=1.0, w8a6=1.0, w8a8=1.0, float=1.0)
    shown = ["float ↓", "W8A8 ↓", "W8A8 integer ↓", "W8A6 ↓", "W6A8 ↓", "max inf norm ↓", "avg kurtosis ↓"]
    assert list(build([record]).headings[2:]) == shown
    assert list(build([record], columns=["w8a6", "avg_kurtosis"]).headings[2:]) == ["W8A6 ↓", "avg kurtosis ↓"]


def test_unlike_runs_are_never_averaged(make: Make) -> None:
    penalty = {"changes": {"train.ffn_output_penalty": 0.5}}
    table = build(
        [make("vanilla", float=126.0), make("vanilla", float=162.0, **penalty), make("gated_attention", **penalty)]
    )
    assert table.headings[:2] == ("method", "ffn_output_penalty")
    assert [row[:2] for row in texts(table)] == [["vanilla", "0.0"], ["vanilla", "0.5"], ["gated_attention", "0.5"]]


def test_a_setting_that_goes_along_with_the_method_is_shown_too(make: Make) -> None:
    """A learning rate that only one method was given must not hide behind that method's name."""
    table = build([make("vanilla"), make("gated_attention", changes={"train.max_steps": 900})])
    assert table.row_keys == ("method", "train.max_steps")


def test_method_settings_are_told_apart_within_a_method(make: Make) -> None:
    records = [make("clipped_softmax", settings={"gamma": g, "zeta": 1.0}, float=1.0) for g in (-0.03, -0.003)]
    labels = [row[0] for row in texts(build([*records, make("vanilla")]))]
    assert labels == ["vanilla", "clipped_softmax (gamma=-0.003)", "clipped_softmax (gamma=-0.03)"]
    assert [row[0] for row in texts(build(records[:1]))] == ["clipped_softmax"]


def test_a_name_speaks_for_its_group(make: Make) -> None:
    small = {"model.name": "tiny_bert", "model.dimensions": {"layers": 2}, "model.source": "scratch"}
    table = build([make(float=1.0), make(float=2.0, changes=small)])
    assert table.row_keys == ("model.name", "method")
    wider = {**small, "model.dimensions": {"layers": 4}}
    table = build([make(float=1.0), make(float=2.0, changes=small), make(float=3.0, changes=wider)])
    assert table.row_keys == ("model.name", "model.dimensions.layers", "method")
    assert [row[1] for row in texts(table)] == ["–", "2", "4"]


@pytest.mark.parametrize(
    "changes",
    [{"train.save_steps": 7}, {"data_dir": "/b"}, {"device": "cuda"}, {"eval.heatmaps": False}, {"table": "b"}],
)
def test_what_cannot_change_a_figure_makes_no_row(make: Make, changes: dict[str, object]) -> None:
    assert len(build([make(seed=1, float=1.0), make(seed=2, float=2.0, changes=changes)]).cells) == 1


@given(st.lists(st.tuples(*[st.integers(0, 1)] * 6), min_size=1, max_size=12, unique=True))
def test_runs_share_a_row_only_where_nothing_but_the_seed_differs(choices: list[tuple[int, ...]]) -> None:
    records = []
    for index, (method, name, layers, steps, scale, seed) in enumerate(choices):
        config = {
            "method": [{"name": ("vanilla", "gated")[method], "settings": {"pi": steps}}],
            "model": {"name": f"m{name}", "layers": layers},
            "train": {"name": "t", "steps": steps},
            "scale": ("small", "paper")[scale],
            "seed": seed,
        }
        records.append(Record(f"{index:016x}", "finished", config, {}))
    unlike = {str(sorted(flatten({**r.config, "seed": 0}).items())) for r in records}
    assert len(build(records).cells) == len(unlike)


def test_two_metrics_never_share_a_column(make: Make) -> None:
    accuracy = {"metric": "accuracy", "higher_is_better": True, "definition": "share of right answers"}
    matthews = {"metric": "matthews_correlation", "higher_is_better": True, "definition": "Matthews"}
    table = build(
        [
            make(float=0.9, changes={"task.name": "sst2"}, **accuracy),
            make(float=0.5, changes={"task.name": "cola"}, **matthews),
        ]
    )
    assert table.headings == ("task", "method", "seeds", "matthews_correlation float ↑", "accuracy float ↑")
    assert [row[3:] for row in texts(table)] == [["0.5000", "–"], ["–", "0.9000"]]


def test_tasks_measured_by_one_formula_share_a_column_and_each_is_defined(make: Make) -> None:
    table = build(
        [
            make(method, float=60.0, definition=f"exp(mean loss); {task}, windows of 64", changes={"task.name": task})
            for task in ("ptb", "wikitext2")
            for method in ("vanilla", "gated_attention")
        ]
    )
    assert table.headings == ("task", "method", "seeds", "float ↓")
    assert table.notes[:2] == (
        "perplexity (task=ptb): exp(mean loss); ptb, windows of 64",
        "perplexity (task=wikitext2): exp(mean loss); wikitext2, windows of 64",
    )


def test_two_formulas_of_one_metric_never_share_a_column(make: Make) -> None:
    longer = {"definition": "windows of 128 tokens", "changes": {"task.max_length": 128}}
    table = build([make(float=60.0), make(float=50.0, **longer)])
    assert table.headings == ("max_length", "method", "seeds", "float [a] ↓", "float [b] ↓")
    assert [row[3:] for row in texts(table)] == [["60.00", "–"], ["–", "50.00"]]
    assert "perplexity [b]: windows of 128 tokens" in table.notes


def test_another_metric_than_the_first_by_name(make: Make) -> None:
    record = make(float=0.5)
    extra = make(float=0.7, metric="f1").metrics["float"]
    record.metrics["float"].update(extra)
    assert texts(build([record]))[0][2] == "0.5000"
    assert texts(build([record], metric="f1"))[0][2] == "0.7000"
    with pytest.raises(UserError, match="f1, perplexity"):
        build([record], metric="bleu")


def test_bold_only_where_the_difference_exceeds_the_spread(make: Make) -> None:
    vanilla = two_seeds(make, "vanilla", 65.0, 66.0)
    assert bold(build(vanilla + two_seeds(make, "gated_attention", 63.0, 63.1))) == [("gated_attention", "float ↓")]
    close = build(vanilla + two_seeds(make, "gated_attention", 64.0, 66.5))
    assert bold(close) == []
    assert "No two comparable rows differ by more than their spread in: float ↓." in close.notes


def test_no_bold_with_one_seed_and_it_is_said(make: Make) -> None:
    table = build([make("vanilla", float=65.0), make("gated_attention", float=3.0)])
    assert bold(table) == []
    assert any(note.startswith("One measurement a figure") for note in table.notes)


def test_the_best_follows_the_metrics_direction(make: Make) -> None:
    accuracy = {"metric": "accuracy", "higher_is_better": True}
    records = two_seeds(make, "vanilla", 0.8, 0.81, **accuracy) + two_seeds(
        make, "gated_attention", 0.9, 0.91, **accuracy
    )
    assert bold(build(records)) == [("gated_attention", "float ↑")]


def test_different_tasks_models_and_scales_are_not_compared(make: Make) -> None:
    for changes in ({"task.max_length": 128}, {"model.name": "gpt2"}, {"scale": "medium"}):
        assert (
            bold(build(two_seeds(make, "vanilla", 60, 61) + two_seeds(make, "vanilla", 10, 11, changes=changes))) == []
        )


def test_failed_runs_are_shown_and_never_dropped(make: Make) -> None:
    records = [
        make("vanilla", seed=1, float=65.0, w8a8=66.0),
        make("vanilla", seed=2, float=64.0, w8a8=math.nan),
        make("clipped_softmax", seed=1, float=30.0, w8a8=31.0),
        make("clipped_softmax", seed=2, status="diverged", message="loss is NaN at step 40"),
        make("gated_attention", seed=1, status="failed"),
    ]
    table = build(records)
    assert texts(table) == [
        ["vanilla", "2", "64.50 ± 0.71", "66.00 (1 of 2)"],
        ["clipped_softmax", "1 of 2", "30.00 (1 of 2)", "31.00 (1 of 2)"],
        ["gated_attention", "0 of 1", "failed", "failed"],
    ]
    assert table.cells[0][3].problem == "not finite"
    assert "method=clipped_softmax, seed=2: diverged (loss is NaN at step 40)" in table.notes
    assert bold(table) == []


def test_survivors_are_neither_the_best_nor_rivals() -> None:
    column = Column("perplexity", "float", False, "")
    survivors = Cell("", summary=Summary(10.0, 0.1, 2), problem="diverged")
    good, fair = (Cell("", summary=Summary(mean, 0.1, 2)) for mean in (9.0, 60.0))
    assert best(column, {0: fair, 1: survivors}) is None
    assert best(column, {0: good, 1: survivors}) is None, "nothing left to compare with"
    assert best(column, {0: good, 1: survivors, 2: fair}) == 0
    assert best(column, {0: Cell("–")}) is None


def test_only_failures_still_make_a_table(make: Make) -> None:
    table = build([make(status="diverged", message="loss is NaN")])
    assert texts(table) == [["vanilla", "0 of 1"]]
    assert table.notes[0] == "method=vanilla, seed=1000: diverged (loss is NaN)"


def test_settings_measured_in_two_records_share_a_row(make: Make) -> None:
    records = [make(float=65.0, w8a8=66.0), make(float=65.0, w4a4=99.0, changes={"quant.bits": ["w4a4"]})]
    assert texts(build(records)) == [["vanilla", "1", "65.00", "66.00", "99.00"]]


def test_seeds_can_be_rows(make: Make) -> None:
    records = two_seeds(make, "vanilla", 60.0, 61.0)
    assert texts(build(records, rows=["seed", "method"])) == [
        ["0", "vanilla", "1", "60.00"],
        ["1", "vanilla", "1", "61.00"],
    ]


def test_the_scale_stands_under_every_table_that_is_not_the_papers(make: Make) -> None:
    assert any("scale=small" in note for note in build([make(float=1.0)]).notes)
    assert not any("scale" in note for note in build([make(float=1.0, changes={"scale": "paper"})]).notes)


def test_wrong_keys_and_nothing_to_show_are_the_users_errors(make: Make) -> None:
    records = [make(float=1.0)]
    for arguments, words in (
        ({"rows": ["modle"]}, "nearest: model"),
        ({"where": {"scael": "small"}}, "nearest: scale"),
        ({"columns": ["w9a9"]}, "there are: float"),
        ({"where": {"model": "gpt2"}}, "no record"),
    ):
        with pytest.raises(UserError, match=words):
            build(records, **arguments)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="qexp run"):
        build([])


@pytest.mark.parametrize(
    ("summary", "text"),
    [
        (Summary(1294.2, 1046.1, 2), "1,294 ± 1,046"),
        (Summary(4.4912, 0.0103, 2), "4.491 ± 0.010"),
        (Summary(0.86927, None, 1), "0.8693"),
        (Summary(0.0, 0.0, 2), "0.0 ± 0.0"),
        (Summary(-0.0312, None, 1), "-0.03120"),
        (Summary(123456789.0, None, 1), "1.235e+08"),
        (Summary(0.00012345, None, 1), "1.234e-04"),
        (Summary(0.01, 30.0, 2), "0.01 ± 30.00"),
    ],
)
def test_numbers_have_four_digits(summary: Summary, text: str) -> None:
    assert number(summary) == text


@pytest.mark.parametrize(
    ("summary", "figure", "text"),
    [
        (Summary(4142.3, 79.0, 3), PublishedFigure(2086, source="Table 9"), "paper 2,086, ours +2,056"),
        (Summary(65.44, 0.1, 3), PublishedFigure(64, spread=0.5, source="Table 9"), "paper 64 ± 0.5, ours +1.44"),
        (Summary(0.867, None, 1), PublishedFigure(0.867, source="Table 9"), "paper 0.867, ours +0.0"),
        (
            Summary(11.98, 2.8, 3),
            PublishedFigure(1294, spread=1046, source="Table 1"),
            "paper 1,294 ± 1,046, ours -1,282",
        ),
        (None, PublishedFigure(0.909, source="Table 2"), "paper 0.909"),
        (Summary(0.5, None, 1), PublishedFigure(None, reason="not printed"), ""),
        (Summary(0.5, None, 1), None, ""),
    ],
)
def test_the_papers_figure_and_how_far_ours_is_from_it(
    summary: Summary | None, figure: PublishedFigure | None, text: str
) -> None:
    assert Cell("", summary=summary, published=figure).papers == text


def test_what_else_was_evaluated_parts_no_rows_and_is_chosen_as_a_metric(make: Make) -> None:
    """Records from before there were further sets are compared with later ones."""
    further = {"eval.ood": True, "task.ood": ["ptb"], "ood": [{"name": "ptb"}]}
    plain, other = make(seed=0, float=65.0), make("clipped_softmax", seed=0, float=66.0, changes=further)
    own = other.metrics["float"]["perplexity"]
    both = replace(other, metrics={"float": {"perplexity": own, "perplexity@ptb": replace(own, value=300.0)}})
    assert texts(build([plain, both])) == [["vanilla", "1", "65.00"], ["clipped_softmax", "1", "66.00"]]
    table = build([plain, both], metric="perplexity@ptb")
    assert table.caption.startswith("Perplexity@ptb of") and texts(table)[1][2] == "300.0"
    groups = group([plain, both], ["method"])[1]
    assert len({one.block for one in groups}) == 1


def test_two_records_of_one_seed_that_disagree_are_told(make: Make) -> None:
    one, other = make(float=65.0), make(float=65.0, w8a8=66.0, changes={"quant.bits": ["w8a8", "w4a4"]})
    assert not any("disagree" in note for note in build([one, other]).notes)
    figure = replace(other.metrics["float"]["perplexity"], value=64.0)
    unlike = replace(other, metrics={**other.metrics, "float": {"perplexity": figure}})
    (told,) = [note for note in build([one, unlike]).notes if "disagree" in note]
    shown = max(one, unlike, key=lambda record: record.cell_id)
    assert told == f"method=vanilla: 2 records of seed 1000 disagree on float ↓; shown is {shown.cell_id[:8]}."
    assert build([one, unlike]).cells[0][2].text == f"{shown.metrics['float']['perplexity'].value:.2f}"


def test_records_of_uncommitted_files_and_of_two_scales_are_told(make: Make) -> None:
    dirty = replace(make(float=65.0), provenance={"git": {"commit": "c", "dirty": True}})
    table = build([dirty, make(float=60.0, changes={"scale": "medium"})])
    assert "1 of 2 records come from a checkout with changes that were not committed." in table.notes
    assert table.caption.endswith("scale=medium and small") and table.row_keys[0] == "scale"
    assert "1 of" not in " ".join(build([make(float=65.0)]).notes)
