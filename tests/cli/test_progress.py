"""Progress: a bar on a terminal, lines in a log."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from qexp.cli import progress as module
from qexp.cli.progress import BarProgress, LineProgress, duration, make_progress
from qexp.runner.progress import SilentProgress


def console(terminal: bool) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=terminal, width=100, color_system=None), out


def test_the_reporter_suits_the_console() -> None:
    assert isinstance(make_progress(console(True)[0], quiet=False), BarProgress)
    assert isinstance(make_progress(console(False)[0], quiet=False), LineProgress)
    assert isinstance(make_progress(console(True)[0], quiet=True), SilentProgress)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_phase_leaves_one_line_behind_and_may_end_twice(terminal: bool) -> None:
    where, out = console(terminal)
    reporter = make_progress(where, quiet=False)
    reporter.start("training [x]", 10)
    reporter.advance(5, note="loss 1.0")
    reporter.advance(7)
    reporter.message("going on [from] step 3")
    reporter.finish()
    reporter.finish()
    assert "training [x]" in out.getvalue() and "going on [from] step 3" in out.getvalue()


def test_an_advance_outside_a_phase_does_nothing() -> None:
    for terminal in (True, False):
        where, out = console(terminal)
        make_progress(where, quiet=False).advance(3)
        assert out.getvalue() == ""


def test_lines_come_now_and_then_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    where, out = console(False)
    reporter = LineProgress(where)
    reporter.start("training", 100)
    for step in range(1, 41):
        now = float(step)
        reporter.advance(step, note=f"loss {step}")
    lines = out.getvalue().splitlines()
    assert lines == [
        "training: 100 steps",
        "training: 15/100, 1 min 25 s left loss 15",
        "training: 30/100, 1 min 10 s left loss 30",
    ]


def test_a_total_learnt_later_counts() -> None:
    where, _ = console(True)
    reporter = BarProgress(where)
    reporter.start("evaluating")
    reporter.advance(1, 4)
    reporter.finish()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (3.2, "3 s"), (59.7, "1 min 00 s"), (125, "2 min 05 s"), (3720, "1 h 02 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
