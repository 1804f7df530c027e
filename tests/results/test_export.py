from __future__ import annotations

import csv
import html.parser
import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from qexp.results.export import to_csv, to_html, to_latex, to_markdown, write_reference
from qexp.results.schema import Record
from qexp.results.store import Store
from qexp.results.table import Table, build

Make = Callable[..., Record]


@pytest.fixture
def table(make: Make) -> Table:
    records = [
        *(make("vanilla", seed=seed, float=65.0 + seed, w8a8=1e3 / 3 * seed) for seed in (1, 2)),
        *(make("gated_attention", seed=seed, float=63.0, w8a8=64.0 + seed) for seed in (1, 2)),
        make("clipped_softmax", seed=1, status="diverged", message="loss <b>50 %</b> & up_1 | $x$"),
    ]
    return build(records)


class Reader(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_markdown(table: Table) -> None:
    lines = to_markdown(table).splitlines()
    assert lines[0] == "**Perplexity of minilm on wikitext2, scale=small**"
    assert lines[2:7] == [
        "| method | seeds | float ↓ | W8A8 ↓ |",
        "| :--- | ---: | ---: | ---: |",
        "| vanilla | 2 | 66.50 ± 0.71 | 500.0 ± 235.7 |",
        "| clipped_softmax | 0 of 1 | diverged | diverged |",
        "| gated_attention | 2 | **63.00 ± 0.00** | **65.50 ± 0.71** |",
    ]
    assert all(line.startswith("- ") for line in lines[8:]) and "\\|" in to_markdown(table)


def test_latex_is_booktabs_and_escaped(table: Table) -> None:
    text = to_latex(table)
    for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\begin{tabular}{lrrr}", r"\caption{"):
        assert rule in text
    assert r"gated\_attention & 2 & \textbf{63.00 $\pm$ 0.00}" in text
    assert r"\textless{}b\textgreater{}50 \%\textless{}/b\textgreater{} \& up\_1 \textbar{} \$x\$" in text
    assert text.isascii()
    assert text.count("{") == text.count("}")
    assert text.count(r" \\") == 1 + len(table.cells)


def test_csv_has_value_spread_and_number_in_columns_of_their_own(table: Table) -> None:
    lines = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert len(lines) == 6
    first, *_, last = lines
    assert (first["method"], first["setting"], first["mean"], first["n"]) == ("vanilla", "float", "66.5", "2")
    assert float(first["std"]) == math.sqrt(0.5)
    assert (last["setting"], last["best"], last["higher_is_better"]) == ("w8a8", "1", "0")
    failed = next(line for line in lines if line["method"] == "clipped_softmax")
    assert (failed["mean"], failed["std"], failed["n"], failed["problem"]) == ("", "", "0", "diverged")


def test_csv_of_failures_alone_keeps_their_rows(make: Make) -> None:
    (line,) = csv.DictReader(io.StringIO(to_csv(build([make(status="failed")]))))
    assert (line["method"], line["seeds"], line["mean"]) == ("vanilla", "0 of 1", "")


def test_html_asks_for_nothing_and_names_every_cell(table: Table) -> None:
    page = to_html(table)
    reader = Reader()
    reader.feed(page)
    names = [tag for tag, _ in reader.tags]
    assert "data-value" in dict(reader.tags)["td"]
    assert not {"script", "link", "img", "iframe"} & set(names)
    assert not re.search(r"https?:|url\(|@import|src=", re.sub("[a-z]+-src", "", page))
    assert names.count("caption") == 1
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in reader.tags if tag == "th")
    assert dict(reader.tags)["html"] == {"lang": "en"}
    assert "color-scheme: light dark" in page
    assert "<b>50" not in page and "&lt;b&gt;50 %" in page


def test_every_format_is_the_same_for_the_same_table(table: Table) -> None:
    for export in (to_markdown, to_latex, to_csv, to_html):
        assert export(table) == export(table)


def test_a_committed_table_can_be_made_again_from_its_records(table: Table, tmp_path: Path) -> None:
    paths = write_reference(table, tmp_path / "first")
    assert len(paths) == 7 and all(path.is_file() for path in paths)
    again = build(Store(tmp_path / "first").query())
    assert to_markdown(again) == (tmp_path / "first" / "table.md").read_text(encoding="utf-8") == to_markdown(table)
    assert to_csv(again) == (tmp_path / "first" / "table.csv").read_text(encoding="utf-8")


def test_a_committed_record_names_no_folder_of_the_machine(table: Table, tmp_path: Path) -> None:
    assert table.records[0].config["data_dir"] == "/somewhere/data"
    for path in write_reference(table, tmp_path):
        assert "/somewhere" not in path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            assert json.loads(path.read_text())["artifacts"] == {}
