"""The report: what stands on the page, that everything from records is text in it, and that it asks for nothing."""

from __future__ import annotations

import html.parser
import itertools
import math
import re
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from qexp.results import grid
from qexp.results.ledger import deviations
from qexp.results.report.dots import charts
from qexp.results.report.drawings import MOST
from qexp.results.report.heat import Heat, dimension_maps, heat_map
from qexp.results.report.lines import curves, rounded
from qexp.results.report.page import to_report
from qexp.results.report.provenance import spark, took
from qexp.results.schema import Record
from qexp.results.section import Section, tally, tally_line
from qexp.results.select import labelled


class Reader(html.parser.HTMLParser):
    """Every tag with its attributes, and the text of the page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def page(sections: list[Section]) -> str:
    return to_report(sections)


def test_everything_from_records_and_specifications_is_text(page: str) -> None:
    assert "<script>document" not in page and "&lt;script&gt;document" in page
    assert len(Reader(page).all("script")) == 1


def test_no_string_of_a_record_is_markup(sections: list[Section]) -> None:
    """Whatever a record says of its machine, sites, pictures, end and address: a run of somebody else's may say it."""
    section = sections[0]
    assert section.table is not None
    places = [(y, x, cell) for y, row in enumerate(section.table.cells) for x, cell in enumerate(row)]
    found = {
        (run.record.config["seed"], x - section.table.labels, y): _poisoned(run.record)
        for y, x, cell in places
        for run in cell.runs
    }
    table = grid.build(section.spec, found, scale="small", command="qexp run")
    page = to_report([replace(section, table=table)])
    reader = Reader(page)
    assert [tag for tag, _ in reader.tags].count("script") == 1 and "<script>document" not in page
    assert "".join(reader.text).count(HOSTILE) > 100
    assert {one["href"] for one in reader.all("a") if "x.org" in (one.get("href") or "")} == {
        'https://x.org/">' + HOSTILE
    }


HOSTILE = "<script>document.title = 'run'</script>"


def _poisoned(record: Record) -> Record:
    def poison(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: poison(item) for key, item in value.items()}
        if isinstance(value, list):
            return [poison(item) for item in value]
        return HOSTILE + value if isinstance(value, str) else value

    return replace(
        record,
        status="diverged",
        message=HOSTILE,
        config={**record.config, "model": poison(record.config["model"])},
        provenance={**poison(record.provenance), "wandb": 'https://x.org/">' + HOSTILE},
        outliers=poison(record.outliers),
        artifacts={"heatmap": HOSTILE},
        timings={HOSTILE: 2.0},
    )


def test_nothing_is_asked_for_from_elsewhere(page: str) -> None:
    reader = Reader(page)
    assert not {"img", "link", "iframe", "object", "embed", "base"} & {tag for tag, _ in reader.tags}
    for tag, attributes in reader.tags:
        assert "src" not in attributes and "srcset" not in attributes
        outside = re.match(r"(https?:)?//", attributes.get("href") or "")
        assert not outside or (tag == "a" and attributes["rel"] == "noreferrer")
        assert not [name for name in attributes if name.startswith("on")]
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(", page)
    policy = next(one["content"] for one in reader.all("meta") if one.get("http-equiv"))
    assert policy is not None and policy.startswith("default-src 'none'") and "script-src 'sha256-" in policy


def test_names_are_unique_and_what_is_named_is_there(page: str) -> None:
    reader = Reader(page)
    ids = Counter(attributes["id"] for _, attributes in reader.tags if "id" in attributes)
    assert max(ids.values()) == 1
    for _, attributes in reader.tags:
        for key in ("aria-labelledby", "popovertarget"):
            assert key not in attributes or attributes[key] in ids
        if (attributes.get("href") or "").startswith("#"):
            assert (attributes["href"] or "")[1:] in ids


def test_every_table_has_headings_with_a_scope_and_a_box_of_its_own(page: str) -> None:
    reader = Reader(page)
    assert all(attributes.get("scope") in ("col", "row") for attributes in reader.all("th"))
    boxes = [one for one in reader.all("div") if one.get("class") == "scroll"]
    assert len(boxes) >= len(reader.all("table"))
    assert all(one["tabindex"] == "0" and (one.get("aria-label") or one.get("aria-labelledby")) for one in boxes)
    assert all(one.get("aria-label") or one.get("aria-hidden") for one in reader.all("svg"))
    assert {"header", "nav", "main"} <= {tag for tag, _ in reader.tags} and reader.all("html") == [{"lang": "en"}]


def test_headings_follow_each_other_and_nothing_moves(page: str) -> None:
    levels = [int(tag[1]) for tag, _ in Reader(page).tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert not re.search(r"transition|animation|scroll-behavior|@keyframes", page)  # prefers-reduced-motion: for all


def test_a_figure_opens_its_runs_and_a_missing_one_opens_nothing(page: str, sections: list[Section]) -> None:
    reader = Reader(page)
    figures = [one["popovertarget"] for one in reader.all("button") if one.get("class") == "figure"]
    assert len(figures) == 4  # of the one table that has records
    panels = page.split('<div popover role="dialog"')[1:]
    assert len(panels) == 4
    for told in ("c0ffeec0ff, with uncommitted changes", "EPYC, with avx2", "H100", "torch 2.13.0", "71 s", "1.00 GiB"):
        assert all(told in panel for panel in panels), told
    assert all("training loss from 3 to 0.0508 at step 590" in panel for panel in panels)
    assert panels[0].count("https://wandb.ai/a/qexp/runs/") == 3
    assert panels[3].count('<th scope="row">') == 2  # seed 3 has no record there
    assert "task.name=A" in panels[0] and "train.max_steps=220" not in panels[0]  # shared by all cells: told once


def test_verdicts_deviations_the_papers_figures_and_what_makes_more(page: str, sections: list[Section]) -> None:
    text = " ".join(Reader(page).text)
    assert "not enough seeds" in text and "no record yet" in text
    assert re.search(r"paper 64 ± 0.5\s*, ours \+1.44", text)
    assert "train.max_steps" in text and "these are the paper's figures" in text
    assert text.count("qexp reproduce paper/one --scale small") >= 3
    assert page.count("Claim wins") == 0  # the verdict stands by itself, not in the notes again
    assert tally(sections) == {"confirmed": 1, "not enough seeds": 1, "no record yet": 4}
    assert tally_line(sections).startswith("6 claims: 1 confirmed")
    assert tally_line([]) == "0 claims"


def test_pictures_are_drawn_and_their_number_is_told(page: str) -> None:
    beside, *portraits = re.split(r"<template id=", page)
    assert beside.count('<table class="heat">') == beside.count('<svg class="dots"') == 1 <= MOST
    assert beside.count('<td class="h5">36</td>') == 4
    assert len(portraits) == 1 and beside.count("data-portrait=") == 4  # four figures of one trained network
    assert portraits[0].count('<table class="heat">') == 2 and portraits[0].count('<svg class="dots"') == 1
    assert "Largest magnitude at 2 sites of 2 layers, in standard deviations: from 36 to 36" in portraits[0]


def test_a_map_of_dimensions_shows_those_with_most_outliers() -> None:
    def site(layer: int | None, *dims: list[int]) -> dict[str, Any]:
        return {"role": "ffn_output", "layer": layer, "max_abs": 1.0, "std": 1.0, "outlier_dims": list(dims)}

    sites = {"a": site(0, [7, 1000], [1, 1]), "b": site(1, [7, 10], *([100 + n, 2] for n in range(9))), "c": site(None)}
    (drawn,) = dimension_maps({"sites": {**sites, "d": {**site(0, [5, 5]), "role": "query"}}})
    assert drawn.columns == (7, *range(100, 107))
    (_, first), (_, second) = drawn.rows
    assert first[0] == Heat("1,000", 6) and set(first[1:]) == {None}  # empty is not zero
    assert second[:2] == (Heat("10", 2), Heat("2", 0))
    assert "dimension 7 holds 98% of those that are counted, and has some in 2 of 2 layers" in drawn.words
    assert not list(dimension_maps({"sites": {"a": site(0)}})) and not list(dimension_maps({}))


def test_scales_are_drawn_before_and_after_training() -> None:
    initial = {"wte": {"weight": 1.0, "activation": 0.5, "gradient": 0.0}, "ln": {"activation": 2.0}}
    told = {"kind": "tensor_scales", "initial": initial, "trained": {"wte": {"weight": 4.0, "activation": math.nan}}}
    start, weights, activations = charts("scales", told)
    assert start.series[2] == "gradients of activations" and [len(marks) for _, marks in start.lines] == [2, 1]
    assert [dot.value for dot in weights.lines[0][1]] == ["1", "4"] and "after training from 4 to 4" in weights.words
    assert [dot.value for dot in activations.lines[0][1]] == ["0.5"]
    assert len(list(charts("scales", {**told, "trained": {}}))) == 1 and not list(charts("x", {"kind": "unknown"}))


def test_curves_stand_under_their_table(page: str, sections: list[Section]) -> None:
    assert page.count('<figure class="curves">') == 1  # tables without records have none
    assert sections[0].table is not None
    (drawn,) = curves(sections[0].table)
    assert (
        drawn.words.startswith("perplexity over <script>") and "Float: 4: 70.22 ± 0.11, 8: 70.22 ± 0.11." in drawn.words
    )
    first, second = (line.points for line in drawn.lines)
    assert [point.x for point in first] == [x for x, _ in drawn.across] and first[0].x < first[1].x
    assert first[0].y < second[0].y  # a larger figure stands higher
    ends = {point.high for line in drawn.lines for point in line.points} | {p.low for p in (*first, *second)}
    assert drawn.up[-1][0] <= min(ends) and max(ends) <= drawn.up[0][0]


@pytest.mark.parametrize(("low", "high"), [(0.49, 0.81), (0.0, 0.0), (5.0, 5.0), (-3.0, 2.0), (1e-9, 2e-9), (80, 9e6)])
def test_ticks_are_round_and_enclose_the_figures(low: float, high: float) -> None:
    ticks = rounded(low, high)
    assert ticks[0] <= low or math.isclose(ticks[0], low)
    assert ticks[-1] >= high or math.isclose(ticks[-1], high)
    assert 2 <= len(ticks) <= 7 and all(len(f"{tick:.12g}".strip("-0.").split("e")[0]) <= 3 for tick in ticks)


def test_the_same_sections_give_the_same_page(page: str, sections: list[Section]) -> None:
    assert to_report(sections) == page


def test_a_curve_keeps_its_ends_and_skips_what_is_not_finite() -> None:
    curve = [{"step": step, "loss": 1000.0 / (step + 1)} for step in range(500)]
    drawn = spark([{"step": 1, "loss": None}, {"step": 2}, *curve, {"step": 9, "loss": math.inf}])
    assert drawn is not None and len(drawn.points.split()) <= 33
    assert drawn.points.startswith("0,1.0 ") and drawn.points.endswith(" 120,23.0")
    assert spark(curve[:1]) is None and spark([]) is None
    flat = spark([{"step": 0, "loss": 2.0}, {"step": 1, "loss": 2.0}])
    assert flat is not None and "nan" not in flat.points


def test_a_heat_map_of_dead_sites_has_empty_places() -> None:
    sites = {
        "a": {"role": "a", "layer": 0, "max_abs": 0.0, "std": 0.0},
        "b": {"role": "b", "layer": 0, "max_abs": None, "std": 1.0},
        "c": {"role": "c", "layer": 1, "max_abs": 1e9, "std": 1.0},
    }
    drawn = heat_map("dead", {"sites": sites})
    assert drawn is not None and drawn.rows[0][1] == (None, None) and drawn.rows[1][1] == (None, None)
    assert drawn.rows[2][1][1] is not None and drawn.rows[2][1][1].level == 9
    assert heat_map("none", {}) is None


@pytest.mark.parametrize(("seconds", "words"), [(None, "not known"), (71.2, "71 s"), (720, "12 min"), (9000, "2.5 h")])
def test_how_long_a_run_took(seconds: float | None, words: str) -> None:
    assert took(seconds) == words


def _config(**train: Any) -> dict[str, Any]:
    return labelled({"method": [], "train": train, "scale": "small", "seed": 1, "results_dir": "x"})


def test_deviations_say_where_they_hold() -> None:
    rows, columns = ["r0", "r1"], ["c0", "c1"]
    places = [(x, y) for x in (0, 1) for y in (0, 1)]
    paper = {place: {**_config(steps=9, rate=0.1), "scale": "paper", "results_dir": "y"} for place in places}

    def here(changed: set[tuple[int, int]]) -> dict[tuple[int, int], dict[str, Any]]:
        return {place: _config(steps=1 if place in changed else 9, rate=0.1) for place in places}

    def where(changed: set[tuple[int, int]]) -> list[str]:
        return [one.where for one in deviations(here(changed), paper, rows, columns)]

    assert where(set()) == []
    assert where(set(places)) == ["every cell"]
    assert where({(0, 0), (1, 0)}) == ["r0"] and where({(1, 0), (1, 1)}) == ["c1"]
    assert where({(0, 1)}) == ["r1 on c0"]
    assert where({(0, 0), (1, 1)}) == ["2 of 4 cells"]
    (one,) = deviations(here(set(places)), paper, rows, columns)
    assert (one.key, one.here, one.paper) == ("train.steps", "1", "9")
