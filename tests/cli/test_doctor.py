"""``qexp doctor`` on the terminal and for scripts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from qexp.cli.doctor import doctor
from qexp.runner.doctor import Check

app = typer.Typer()
app.command()(doctor)


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[Check]:
    made = [Check("python", "ok", "3.x [odd]"), Check("gguf", "missing", "for [models]", "pip install 'x[gguf]'")]
    monkeypatch.setattr("qexp.runner.doctor.examine", lambda data_dir, network: made)
    monkeypatch.setattr("qexp.runner.devices.build_native", lambda say: None)
    return made


def test_json_is_the_findings_and_nothing_else(checks: list[Check]) -> None:
    result = CliRunner().invoke(app, ["--json"])
    assert result.exit_code == 0
    assert [Check(**entry) for entry in json.loads(result.output)] == checks


def test_the_terminal_shows_findings_and_commands_verbatim(
    checks: list[Check], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 0 and "\x1b" not in result.output
    assert "3.x [odd]" in result.output and "  gguf: pip install 'x[gguf]'" in result.output.splitlines()


def test_the_data_folder_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str | None, bool]] = []
    monkeypatch.setattr("qexp.runner.devices.build_native", lambda say: None)
    monkeypatch.setattr("qexp.runner.doctor.examine", lambda data_dir, network: asked.append((data_dir, network)) or [])
    monkeypatch.setenv("QEXP_DATA_DIR", str(tmp_path))
    CliRunner().invoke(app, [])
    monkeypatch.delenv("QEXP_DATA_DIR")
    CliRunner().invoke(app, ["--network"])
    assert asked == [(str(tmp_path), False), (None, True)]


def test_a_first_build_is_announced_beside_the_findings(
    checks: list[Check], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("qexp.runner.devices.build_native", lambda say: say("building"))
    doctor(as_json=True)
    out, err = capsys.readouterr()
    assert [Check(**entry) for entry in json.loads(out)] == checks and err == "building\n"
