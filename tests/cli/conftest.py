"""A command line inside the test's process, and records to show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from qexp.cli.app import main
from qexp.results.schema import Metric, Record
from qexp.results.store import Store
from qexp.runner.compose import compose, compose_dict
from qexp.runner.identity import cell_id

PERPLEXITY = "exp of the mean loss over masked tokens; windows of 64 tokens, no overlap"


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Qexp = Callable[..., Outcome]


@pytest.fixture
def qexp(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Qexp:
    """``qexp("run", "seed=1")`` -> exit code, standard output, standard error; in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("QEXP_DATA_DIR", raising=False)

    def call(*args: str) -> Outcome:
        monkeypatch.setattr("sys.argv", ["qexp", *args])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        code = stopped.value.code
        return Outcome(code if isinstance(code, int) else 0, captured.out, captured.err)

    return call


def make_record(*overrides: str, status: str = "finished", **figures: float) -> Record:
    """A record as a run of ``overrides`` would leave it; ``figures`` are perplexities by setting."""
    metrics = {
        setting: {"perplexity": Metric(value, False, 1000, PERPLEXITY)}
        for setting, value in (figures or {"float": 12.5, "w8a8": 15.25}).items()
    }
    outliers = {"summary": {"max_inf_norm": 218.4, "avg_kurtosis": 3980.0, "max_kurtosis": 37977.0, "definition": "d"}}
    return Record(
        cell_id=cell_id(compose(overrides)),
        status=status,  # type: ignore[arg-type]
        config=compose_dict(overrides),
        provenance={"qexp": "0.1.0", "packages": {"torch": "2.0"}},
        metrics=metrics if status == "finished" else {},
        outliers=outliers if status == "finished" else {},
        timings={"train": 61.0, "evaluate.float": 4.0},
        message="" if status == "finished" else "the loss was not a number at step 3",
    )


@pytest.fixture
def new_record() -> Callable[..., Record]:
    """:func:`make_record`."""
    return make_record


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """One record in ``runs`` below the test's folder."""
    made = make_record("seed=1")
    Store(tmp_path / "runs").save(made)
    return made


@pytest.fixture
def executed_record(tmp_path: Path, executed: dict[str, Any]) -> Record:
    """A record of a run with ``eval.integer=true``, in ``runs`` below the test's folder."""
    made = make_record("seed=1", "eval.integer=true")
    metrics = {**made.metrics, "w8a8.integer": {"perplexity": Metric(15.75, False, 1000, PERPLEXITY)}}
    made = replace(made, metrics=metrics, integer={"w8a8": executed})
    Store(tmp_path / "runs").save(made)
    return made
