"""``launcher=slurm``: its settings and refusals anywhere, its array job where a cluster answers (`.ci/slurm`)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qexp.conf.errors import UserError
from qexp.conf.sweeps import SlurmConfig
from qexp.results.store import Store
from qexp.runner.sweep.settings import compose_settings
from qexp.runner.sweep.slurm import check_cluster

PROGRAM = [sys.executable, "-c", "from qexp.cli.app import main; main()"]


def answers() -> bool:
    return bool(shutil.which("sinfo")) and not subprocess.run(["sinfo", "-h"], capture_output=True).returncode


def test_settings() -> None:
    launcher = compose_settings(["launcher=slurm", "launcher.time=5", "launcher.extra.account=me"]).launcher
    assert isinstance(launcher, SlurmConfig)
    assert (launcher.time, launcher.extra) == (5, {"account": "me"})


def test_a_machine_without_slurm_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="no sbatch on this machine"):
        check_cluster()


def test_without_submitit_the_command_that_installs_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"pip install 'qexp\[slurm\]'"):
        check_cluster()


@pytest.mark.slow
@pytest.mark.skipif(not answers(), reason="no Slurm cluster answers: sinfo")
def test_the_figures_are_those_of_local_workers(text_folder: Path, tmp_path: Path) -> None:
    figures = []
    for name, given in (("local", "launcher.threads=1"), ("slurm", "launcher.memory=1.0")):
        words = ["sweep", "model=tiny_bert", "task=text_folder", f"task.folder={text_folder}", "scale=smoke"]
        words += ["task.max_length=32", "train.max_steps=2", "train.batch_size=4", "eval.outliers=false", "quant=none"]
        words += ["seed=1,2", "tracking=none", f"results_dir={tmp_path / name}", f"launcher={name}", given]
        done = subprocess.run([*PROGRAM, *words, "launcher.workers=1"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        figures.append({record.config["seed"]: record.metrics for record in Store(tmp_path / name).query()})
    assert len(figures[0]) == 2
    assert figures[0] == figures[1]
