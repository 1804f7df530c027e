"""``qexp check`` on one real cell: as it is, tampered with, and mended by ``--update``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qexp.cli.app import app
from qexp.results import check
from qexp.results.check import Expectations


def test_a_tampered_expectation_fails_and_update_mends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    committed, path = check.read(), tmp_path / "smoke.json"
    vit = next(cell for cell in committed.cells if cell.name == "gated_attention_vit")
    tampered = replace(vit, figures={**vit.figures, "float": {"accuracy": 0.9}})
    check.write(Expectations(committed.tolerances, (tampered,)), path)
    monkeypatch.setattr(check, "EXPECTATIONS", path)

    failed = CliRunner().invoke(app, ["check"])
    assert failed.exit_code == 1
    line, summary = failed.stdout.splitlines()
    assert line.startswith("gated_attention_vit float accuracy: expected 0.9, found ") and "tolerance 0.0625" in line
    assert summary == "1 experiments, 1 figures moved"

    assert CliRunner().invoke(app, ["check", "--update"]).exit_code == 0
    mended = check.read(path)
    assert not check.moved(vit, mended.cells[0].figures, mended.tolerances)
