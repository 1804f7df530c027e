"""``qexp run``: what goes where. The experiment itself is replaced; it has its own tests."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from qexp.conf.schema import ExperimentConfig
from qexp.results.schema import Record
from qexp.results.store import Store


class FakeTracker:
    closed: list[int] = []

    def close(self, exit_code: int = 0) -> None:
        self.closed.append(exit_code)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, new_record: Any) -> dict[str, Any]:
    """Replaces the experiment by one that talks, reports progress and saves a record of the wanted ``status``."""
    wanted: dict[str, Any] = {"status": "finished"}

    def run_experiment(cfg: ExperimentConfig, store: Store, tracker: Any, progress: Any) -> Record:
        wanted["config"] = cfg
        print("a library prints")
        progress.start("training", 3)
        progress.advance(3, note="loss 1.0")
        progress.message("going on from step 1")
        record: Record = new_record(f"seed={cfg.seed}", status=wanted["status"])
        store.save(record)
        return record

    monkeypatch.setattr("qexp.runner.experiment.run_experiment", run_experiment)
    monkeypatch.setattr("qexp.runner.tracking.make_tracker", lambda cfg, cell: FakeTracker())
    FakeTracker.closed.clear()
    return wanted


def test_summary_has_figures_differences_definition_and_where_to_look(qexp: Any, fake: Any) -> None:
    outcome = qexp("run", "seed=5")
    assert outcome.code == 0
    for text in (
        "vanilla · minilm",
        "12.50",
        "15.25",
        "+2.750",
        "windows of 64 tokens",
        "218.4",
        "3,980",
        "runs/adhoc/",
    ):
        assert text in outcome.out
    assert "qexp show " in outcome.out
    assert fake["config"].seed == 5 and FakeTracker.closed == [0]


def test_progress_goes_to_standard_error_as_plain_lines(qexp: Any, fake: Any) -> None:
    err = qexp("run").err
    assert "training: 3 steps" in err and "training: done in" in err and "going on from step 1" in err
    assert "a library prints" in err


def test_json_is_the_record_and_nothing_else(qexp: Any, fake: Any) -> None:
    outcome = qexp("run", "--json")
    data = json.loads(outcome.out)
    assert data["metrics"]["w8a8"]["perplexity"]["value"] == 15.25
    assert {"cell_id", "status", "config", "provenance", "metrics", "outliers", "timings"} <= set(data)


def test_what_c_code_prints_goes_to_standard_error_too(capfd: pytest.CaptureFixture[str]) -> None:
    from qexp.cli.run import standard_output_kept_free

    with standard_output_kept_free():
        os.write(1, b"from C\n")
        print("from Python")
    print("the record")
    assert capfd.readouterr() == ("the record\n", "from C\nfrom Python\n")


def test_quiet_prints_the_records_path_only(qexp: Any, fake: Any, tmp_path: Path) -> None:
    outcome = qexp("run", "-q")
    assert "training" not in outcome.err
    assert (tmp_path / outcome.out.strip()).is_file()


def test_a_diverged_run_says_why_and_exits_with_1(qexp: Any, fake: Any) -> None:
    fake["status"] = "diverged"
    outcome = qexp("run")
    assert outcome.code == 1
    assert outcome.err.splitlines()[-1] == "qexp: diverged: the loss was not a number at step 3"
    assert FakeTracker.closed == [1]


def test_a_failed_run_closes_its_tracker(qexp: Any, fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("qexp.runner.experiment.run_experiment", stop)
    assert qexp("run").code == 130
    assert FakeTracker.closed == [130]
