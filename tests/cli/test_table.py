"""``qexp table``: choosing records, and the forms of a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qexp.results.schema import Record
from qexp.results.store import Store


@pytest.fixture
def records(tmp_path: Path, new_record: Any) -> list[Record]:
    made = [
        new_record(f"method={method}", f"seed={seed}", float=12.0 + seed, w8a8=15.0 + seed)
        for method in ("vanilla", "gated_attention")
        for seed in (1, 2)
    ]
    for one in made:
        Store(tmp_path / "runs").save(one)
    return made


def test_into_a_pipe_it_is_markdown(qexp: Any, records: list[Record]) -> None:
    out = qexp("table").out
    assert out.count("\n| vanilla |") == 1 and out.count("\n| gated_attention |") == 1
    assert "windows of 64 tokens" in out


def test_records_by_id_and_by_configuration(qexp: Any, records: list[Record]) -> None:
    assert "gated" not in qexp("table", records[0].cell_id[:8]).out
    assert "vanilla" not in qexp("table", "--where", "method=gated_attention").out
    assert "w8a8" not in qexp("table", "--columns", "float").out.lower()


@pytest.mark.parametrize(
    ("form", "sign"), [("md", "| "), ("latex", "\\toprule"), ("csv", "method,"), ("html", "<table")]
)
def test_every_form(qexp: Any, records: list[Record], form: str, sign: str) -> None:
    assert sign in qexp("table", "--format", form).out


@pytest.mark.parametrize(
    ("name", "sign"), [("t.md", "| "), ("t.tex", "\\toprule"), ("t.csv", "method,"), ("t.html", "<table")]
)
def test_the_files_ending_says_the_form(qexp: Any, records: list[Record], tmp_path: Path, name: str, sign: str) -> None:
    outcome = qexp("table", "--output", name)
    assert (outcome.code, outcome.out) == (0, "")
    assert sign in (tmp_path / name).read_text()


@pytest.mark.parametrize(
    "args",
    [
        ["--where", "method"],
        ["--where", "modle=x"],
        ["--metric", "f2"],
        ["--columns", "w1a1"],
        ["ffffffff"],
        ["-o", "no/t.md"],
    ],
)
def test_what_cannot_be_is_one_line(qexp: Any, records: list[Record], args: list[str]) -> None:
    outcome = qexp("table", *args)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)


def test_no_records_yet(qexp: Any) -> None:
    outcome = qexp("table")
    assert outcome.code == 2 and "qexp run" in outcome.err
