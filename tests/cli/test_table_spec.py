"""``qexp table NAME``: a paper's table from the records that are there, without torch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qexp.results.schema import Metric
from qexp.results.store import Store
from qexp.runner.plan import folder_of, load_table

NAME = "outlier_int8/bit_width"


def test_records_fill_their_cells_and_the_rest_is_told(qexp: Any, new_record: Any, tmp_path: Path) -> None:
    made = new_record("method=vanilla", *load_table(NAME).common, "task=sst2", "seed=7", "scale=smoke")
    made.metrics.clear()
    made.metrics["float"] = {"accuracy": Metric(0.875, True, 32, "share of right answers")}
    Store(tmp_path / "runs").save(made)
    out = qexp("table", NAME, "--scale", "smoke", "--seeds", "7").out
    assert "| Float | 1 | 0.8750 |" in out and "14 of 15" in out
    assert f"qexp reproduce {NAME} --scale smoke --seeds 7" in out
    assert "Claim split_saves_bits: not testable at this scale" in out


def test_records_of_an_older_recipe_are_told_and_not_used(qexp: Any, new_record: Any, tmp_path: Path) -> None:
    made = new_record("method=vanilla", *load_table(NAME).common, "task=sst2", "seed=7", "scale=smoke")
    old = {**made.config, "task": {**made.config["task"], "recipe": 99}, "table": folder_of(NAME)}
    Store(tmp_path / "runs").save(replace(made, cell_id="0" * 16, config=old))
    told = "1 of the missing experiments have a record of another recipe version, which is not used."
    out = qexp("table", NAME, "--scale", "smoke", "--seeds", "7").out
    assert told in out and "15 of 15 measurements" in out
    Store(tmp_path / "runs").save(made)
    assert told not in qexp("table", NAME, "--scale", "smoke", "--seeds", "7").out


@pytest.mark.parametrize(
    "args",
    [["no/such"], [NAME, "3f2a"], [NAME, "--columns", "float"], [NAME, "--seeds", "x"], ["--scale", "small"]],
)
def test_what_cannot_be_is_one_line(qexp: Any, args: list[str]) -> None:
    outcome = qexp("table", *args)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)


def test_it_loads_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom qexp.cli.app import main\n"
        f"sys.argv = ['qexp', 'table', '{NAME}', '--scale', 'smoke']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
