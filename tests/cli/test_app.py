"""The command as a whole: help, exit codes, and what may not be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qexp.conf.errors import RunError, UserError

COMMANDS = ("run", "sweep", "status", "resume", "cancel", "logs", "config", "list", "show", "table", "reproduce")
COMMANDS += ("export", "doctor")
HEAVY = ("torch", "transformers", "datasets", "wandb", "pandas", "matplotlib", "evaluate")


def test_help_names_every_command_and_first_steps(qexp: Any) -> None:
    outcome = qexp("--help")
    assert outcome.code == 0
    for word in (*COMMANDS, "First steps"):
        assert word in outcome.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(qexp: Any, command: str) -> None:
    outcome = qexp(command, "-h")
    assert outcome.code == 0 and f"qexp {command}" in outcome.out


def test_version(qexp: Any) -> None:
    from importlib.metadata import version

    assert qexp("--version").out == f"qexp {version('qexp')}\n"


@pytest.mark.parametrize("args", [["frobnicate"], ["run", "--frobnicate"], ["table", "--format", "pdf"], []])
def test_misuse_exits_with_2(qexp: Any, args: list[str]) -> None:
    assert qexp(*args).code == 2


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("wrong\n  input"), 2, "qexp: error: wrong input\n"),
        (RunError("disk full"), 1, "qexp: error: disk full\n"),
        (KeyboardInterrupt(), 130, "qexp: stopped; run the same command again to go on from the last checkpoint\n"),
    ],
)
def test_errors_are_one_line_and_a_code(
    qexp: Any, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr("qexp.runner.experiment.run_experiment", fail)
    outcome = qexp("run", "tracking=none", "scale=smoke")
    assert outcome == (code, "", said)


def test_bad_override_is_one_line_on_standard_error(qexp: Any) -> None:
    outcome = qexp("run", "method=gated_atention")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("qexp: error: unknown method 'gated_atention'; did you mean gated_attention?")
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    "args",
    [["--help"], ["list", "methods"], ["run", "--help"], ["config", "scale=smoke"], ["table", "--format", "csv"]],
)
def test_light_commands_import_nothing_heavy(args: list[str], tmp_path: Path) -> None:
    code = (
        f"import sys; sys.argv = ['qexp', *{args!r}]\n"
        "from qexp.cli.app import main\n"
        "try: main()\n"
        f"finally: print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert result.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize("args", [["--help"], ["list", "methods", "--json"]])
def test_help_and_list_compose_nothing(args: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['qexp', *{args!r}]\n"
        "from qexp.cli.app import main\n"
        "try: main()\n"
        "finally: print([m for m in ('hydra', 'omegaconf', 'yaml') if m in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stderr.splitlines()[-1] == "[]"
