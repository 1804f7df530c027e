"""The pages of commands are true: every ``bash`` and ``python`` block of a page runs, in order, in one folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qexp.conf.catalog import SCALES
from qexp.results import grid
from qexp.runner.plan import cells, load_table, plan

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CLONED = ("cli", "conf", "kernels", "methods", "models", "results", "runner", ".dev")


def blocks(page: str) -> list[tuple[str, str]]:
    return FENCE.findall((ROOT / "docs" / page).read_text())


def run_page(page: str, folder: Path, **environment: str) -> str:
    """Run the page's blocks in ``folder`` and give back what they printed."""
    home = folder / ".home"
    home.mkdir()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    alone = {"PATH": path, "HOME": str(home), "QEXP_CACHE_DIR": os.environ["QEXP_CACHE_DIR"], "HF_HUB_OFFLINE": "1"}
    alone |= {"NO_COLOR": "1", "COLUMNS": "200", "OMP_NUM_THREADS": "1", **environment}
    printed = ""
    for language, text in blocks(page):
        if language not in ("bash", "python"):
            continue
        command = ["bash", "-euo", "pipefail", "-c", text] if language == "bash" else [sys.executable, "-c", text]
        run = subprocess.run(command, cwd=folder, env=alone, capture_output=True, text=True)
        assert run.returncode == 0, f"{text}\n{run.stdout}\n{run.stderr}"
        printed += run.stdout
    return printed


def test_the_table_that_its_page_shows_is_a_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ((_, text),) = [block for block in blocks("tables.md") if block[0] == "yaml"]
    (tmp_path / "shown.yaml").write_text(text)
    monkeypatch.setattr("qexp.runner.plan._root", lambda: tmp_path)
    spec = load_table("shown")
    for scale in SCALES:
        assert len(plan("shown", [f"scale={scale}"])) == len(spec.seeds) * len(spec.rows) * len(spec.columns)
    made = grid.build(
        spec, dict.fromkeys(cells("shown", ["scale=paper"])), scale="paper", command="qexp reproduce shown"
    )
    assert [row[-1].text for row in made.cells] == ["– (paper 0.33408 ± 0.00432)", "– (paper 0.33696 ± 0.00288)"]


@pytest.mark.slow
def test_your_own_model(tmp_path: Path) -> None:
    printed = run_page("your-own-model.md", tmp_path)
    assert "ffn_residual" in printed and "w8a8" in printed
    assert list((tmp_path / "runs" / "adhoc").glob("*.json"))


@pytest.mark.slow
def test_your_own_data(tmp_path: Path) -> None:
    printed = run_page("your-own-data.md", tmp_path)
    assert "perplexity on their-text" in printed and "Perplexity@their-text" in printed and "accuracy" in printed


@pytest.mark.slow
def test_your_own_method(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    for name in CLONED:
        shutil.copytree(ROOT / name, clone / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", clone)
    (clone / "tests" / "methods").mkdir(parents=True)
    printed = run_page("your-own-method.md", clone, PYTHONPATH=str(clone / ".dev"))
    assert "qexp run method=tempered_softmax" in printed and "1 passed" in printed and "w8a8" in printed
    assert not (ROOT / "methods" / "tempered_softmax").exists()


@pytest.mark.parametrize("page", ["your-own-model.md", "your-own-data.md", "your-own-method.md"])
def test_every_fence_of_a_page_has_a_language(page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    assert len(blocks(page)) == text.count("\n```") // 2
    assert {language for language, _ in blocks(page)} <= {"bash", "python", "text"}
