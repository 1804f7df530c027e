"""The same sweep by every launcher: same figures, same table. Slurm where a cluster answers (`.ci/slurm`)."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qexp.results.store import Store

PROGRAM = [sys.executable, "-c", "from qexp.cli.app import main; main()"]
CLUSTERS = {
    "slurm": bool(shutil.which("sinfo")) and not subprocess.run(["sinfo", "-h"], capture_output=True).returncode,
    "ray": importlib.util.find_spec("ray") is not None,
}


def swept(text_folder: Path, place: Path, *launcher: str) -> tuple[dict[int, Any], str]:
    """The figures by seed, and what ``qexp table`` prints."""
    words = ["sweep", "model=tiny_bert", "task=text_folder", f"task.folder={text_folder}", "scale=smoke", "seed=1,2"]
    words += ["task.max_length=32", "train.max_steps=2", "train.batch_size=4", "eval.outliers=false", "quant=none"]
    words += ["tracking=none", "launcher.workers=1", *launcher]
    place.mkdir()
    done = subprocess.run([*PROGRAM, *words], cwd=place, capture_output=True, text=True)
    assert (done.returncode, "2 finished" in done.stdout) == (0, True), done.stderr
    assert done.stdout.count("\n") == 1
    table = subprocess.run([*PROGRAM, "table"], cwd=place, capture_output=True, text=True, check=True)
    return {record.config["seed"]: record.metrics for record in Store(place / "runs").query()}, table.stdout


@pytest.mark.slow
def test_figures_and_table_are_those_of_local_workers(text_folder: Path, tmp_path: Path) -> None:
    there = [name for name, answers in CLUSTERS.items() if answers]
    if not there:
        pytest.skip("no Slurm cluster answers (sinfo), and Ray is not installed (pip install 'qexp[ray]')")
    figures, table = swept(text_folder, tmp_path / "local", "launcher.threads=1")
    assert set(figures) == {1, 2}
    for name in there:
        assert swept(text_folder, tmp_path / name, f"launcher={name}", "launcher.memory=1.0") == (figures, table), name
