"""``qexp claims`` and ``qexp report``: which tables, at which scale, from which records."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qexp.cli.sections import chosen_tables
from qexp.conf.errors import UserError
from qexp.results.schema import Metric
from qexp.results.store import Store
from qexp.runner.plan import load_table, table_names

NAME = "outlier_int8/bit_width"


@pytest.fixture
def smoke(new_record: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One record of the table at scale=smoke, and no committed ones."""
    made = new_record("method=vanilla", *load_table(NAME).common, "task=sst2", "seed=1000", "scale=smoke")
    made.metrics.clear()
    made.metrics["float"] = {"accuracy": Metric(0.875, True, 32, "share of right answers")}
    Store(tmp_path / "runs").save(made)
    monkeypatch.setattr("qexp.results.library.committed", list)


def test_claims_are_judged_where_there_are_records(qexp: Any, smoke: None) -> None:
    out = qexp("claims", NAME).out
    assert f"{NAME}  Activation bits" in out and "(arXiv 2312.09211, scale=smoke)" in out
    assert "not testable at this scale" in out and "It is judged from scale=small up" in out
    number = len(load_table(NAME).claims)
    assert out.splitlines()[-1] == f"{number} claims: {number} not testable at this scale"


def test_claims_without_a_record_are_told_with_what_makes_some(qexp: Any, smoke: None) -> None:
    out = qexp("claims", "outlier_int8", "--scale", "medium").out
    assert f"no record yet: qexp reproduce {NAME} --scale medium" in out
    number = sum(len(load_table(name).claims) for name in chosen_tables(["outlier_int8"]))
    assert out.splitlines()[-1] == f"{number} claims: {number} no record yet"
    first, *_ = json.loads(qexp("claims", NAME, "--json", "--scale", "medium").out)
    assert (first["table"], first["scale"], first["verdict"]) == (NAME, None, "no record yet")
    assert first["command"] == f"qexp reproduce {NAME} --scale medium"


def test_a_report_holds_the_records_and_how_to_make_them_again(qexp: Any, smoke: None, tmp_path: Path) -> None:
    outcome = qexp("report", NAME, "--to", "page.html")
    assert (outcome.code, outcome.err) == (0, "written: page.html\n")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "0.8750" in page and "task=sst2 scale=smoke seed=1000</code>" in page
    assert "train.max_steps" in page  # in the deviations


def test_the_papers_figures_stand_alone_where_there_is_no_record(qexp: Any, smoke: None, tmp_path: Path) -> None:
    qexp("report", "unit_scaling/charlm", "--scale", "paper")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "0 of 1 tables have records" in page and "these are the paper's figures" in page


def test_chosen_tables() -> None:
    names = list(table_names())
    assert chosen_tables([]) == chosen_tables(["all"]) == names
    assert chosen_tables(["outlier_int8", NAME]) == [name for name in names if name.startswith("outlier_int8/")]
    with pytest.raises(UserError, match="unknown table or paper 'outlier_int'; did you mean outlier_int8"):
        chosen_tables(["outlier_int"])
    with pytest.raises(UserError, match="the folder of records is an option: --results-dir elsewhere"):
        chosen_tables(["results_dir=elsewhere"])


@pytest.mark.parametrize(
    "arguments", [["claims", "nonsense"], ["report", "all", "--scale", "tiny"], ["report", "int8", "--to", "no/such/x"]]
)
def test_what_cannot_be_is_one_line(qexp: Any, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qexp.results.library.committed", list)
    outcome = qexp(*arguments)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)


def test_they_load_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom qexp.cli.app import main\n"
        "sys.argv = ['qexp', 'report', 'quickstart']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "assert not {'torch', 'matplotlib', 'pandas'} & set(sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "report.html").is_file()
