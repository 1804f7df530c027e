"""``qexp plan`` and ``qexp reproduce``: what is shown, what goes on after a failure, and how it ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def test_a_plan_names_tables_papers_or_all(qexp: Any) -> None:
    outcome = qexp("plan", "kurtosis_qat", "--scale", "smoke", "--seeds", "7")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert lines[0].split() == ["table", "experiments", "to", "do", "to", "run", "predicted"]
    named = [line.split()[0] for line in lines[1:5]]
    assert named == ["kurtosis_qat/encoder", "kurtosis_qat/encoder_rte", "kurtosis_qat/robustness", "all"]
    assert "networks to train instead of" in lines[5] and "scale=smoke" in lines[5]
    assert qexp("reproduce", "kurtosis_qat", "--scale", "smoke", "--seeds", "7", "--dry-run").out == outcome.out


def test_committed_tables_are_missing_nothing(qexp: Any) -> None:
    outcome = qexp("plan", "outlier_int8/glue", "--only-missing", "--experiments")
    assert outcome.out.count("committed ") == 61, "a line each, and the heading"
    assert "Nothing to run at scale=small: every experiment has its record." in outcome.out


@pytest.mark.parametrize("command", ["plan", "reproduce"])
@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["quadaptor"], "did you mean quadapter?"),
        (["seed=1"], "name at least one table"),
        (["quickstart", "--seeds", "x"], "--seeds x"),
        (["quickstart", "--scale", "huge"], "unknown scale 'huge'"),
        (["quickstart", "train.max_step=1"], "did you mean train.max_steps?"),
    ],
)
def test_what_cannot_be_planned_is_one_line(qexp: Any, command: str, args: list[str], part: str) -> None:
    outcome = qexp(command, *args)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert part in outcome.err


def test_one_failure_is_not_the_others(qexp: Any) -> None:
    outcome = qexp("reproduce", "quickstart", "--scale", "smoke", "device=cuda:99", "tracking=none", "-q")
    assert outcome.code == 1
    assert "[3/3]" in outcome.err and outcome.err.count("torch sees 0 CUDA devices here") == 6, "when, and at the end"
    assert "3 experiments ran, 0 had a record, 3 failed or diverged" in outcome.err


def test_workers_run_what_one_process_would(qexp: Any) -> None:
    outcome = qexp("reproduce", "quickstart", "--scale", "smoke", "device=cuda:99", "-q", "launcher=local")
    assert outcome.code == 1
    assert outcome.err.count("torch sees 0 CUDA devices here") == 3
    assert "failed: quickstart: vanilla minilm" in outcome.err
    assert "3 experiments ran, 0 had a record, 3 failed or diverged" in outcome.err
    assert "qexp reproduce quickstart device=cuda:99 --scale smoke" in qexp("status", "--all").out


def test_a_plan_loads_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom qexp.cli.app import main\nsys.argv = ['qexp', 'plan', 'quickstart']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\nassert 'torch' not in sys.modules\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
