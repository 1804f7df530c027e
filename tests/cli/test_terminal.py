"""The command in a real terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

pexpect = pytest.importorskip("pexpect")
COLOUR = "\x1b[1;36m"


def start(args: list[str], tmp_path: Path, **environment: str) -> Any:
    """The command in a terminal of 100 columns, with a home of its own."""
    command = ["-c", "from qexp.cli.app import main; main()", *args]
    path = str(Path(sys.executable).parent)
    env: dict[str, Any] = {"TERM": "xterm-256color", "PATH": path, "HOME": str(tmp_path), **environment}
    return pexpect.spawn(
        sys.executable, command, env=env, cwd=str(tmp_path), dimensions=(50, 100), encoding="utf-8", timeout=60
    )


def in_terminal(args: list[str], tmp_path: Path, **environment: str) -> tuple[str, int]:
    """Everything the command writes to the terminal, and its exit code."""
    child = start(args, tmp_path, **environment)
    child.expect(pexpect.EOF)
    child.close()
    return child.before, child.exitstatus


def test_list_is_coloured_unless_no_color(tmp_path: Path) -> None:
    coloured, code = in_terminal(["list", "methods"], tmp_path)
    assert code == 0 and COLOUR in coloured
    plain, _ = in_terminal(["list", "methods"], tmp_path, NO_COLOR="1")
    assert COLOUR not in plain and "gated_attention" in plain


def test_help_fits_the_terminal(tmp_path: Path) -> None:
    out, code = in_terminal(["--help"], tmp_path, NO_COLOR="1", TERM="dumb")
    assert code == 0 and "First steps" in out
    assert max(map(len, out.splitlines())) <= 100


def test_an_error_is_one_line(tmp_path: Path) -> None:
    out, code = in_terminal(["config", "method=gated_atention"], tmp_path)
    assert code == 2
    assert out.count("\n") == 1 and "did you mean gated_attention?" in out


@pytest.mark.slow
def test_ctrl_c_in_the_middle_of_training_says_how_to_go_on(tmp_path: Path) -> None:
    run = "run model=tiny_bert task=pydocs scale=smoke tracking=none train.max_steps=100000 train.save_steps=100000"
    child = start(run.split(), tmp_path, QEXP_CACHE_DIR=str(tmp_path / "cache"))
    child.expect(r"training.* [1-9]\d*/100000", timeout=300)
    child.sendintr()
    child.expect("qexp: stopped; run the same command again to go on from the last checkpoint")
    child.expect(pexpect.EOF, timeout=120)
    child.close()
    assert child.exitstatus == 130
    assert list(tmp_path.glob("runs/**/checkpoint-*"))
    assert not list(tmp_path.glob("runs/adhoc/*.json"))
