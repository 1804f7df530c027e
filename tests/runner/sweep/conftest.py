"""A small sweep in a folder of its own, and an experiment that is over at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qexp.conf.schema import ExperimentConfig
from qexp.results.schema import Record
from qexp.results.store import Store
from qexp.runner.compose import to_dict
from qexp.runner.identity import cell_id
from qexp.runner.sweep.folder import SweepFolder
from qexp.runner.sweep.plan import plan_sweep

NewSweep = Callable[..., SweepFolder]
SMALL = ("model=tiny_bert", "task=pydocs", "scale=smoke", "tracking=none")


@pytest.fixture
def new_sweep(tmp_path: Path) -> NewSweep:
    """``new_sweep("seed=1,2")``: the folder of a planned sweep in ``runs`` below the test's folder."""

    def make(*overrides: str) -> SweepFolder:
        return SweepFolder.create(plan_sweep([*SMALL, f"results_dir={tmp_path / 'runs'}", *overrides])[0])

    return make


def recorded(config: ExperimentConfig, status: str = "finished") -> Record:
    provenance = {"wall_seconds": 2.0, "peak_memory_bytes": 3 * 2**30}
    return Record(cell_id(config), status, to_dict(config), provenance)  # type: ignore[arg-type]


class FakeExperiment:
    """In place of ``run_experiment``: remembers its cells, and raises or records what the test wants of them."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.configs: list[ExperimentConfig] = []
        self.behaviour: dict[int, Exception | BaseException | str] = {}
        """Seed -> an error, or a status other than finished."""

    def __call__(self, config: ExperimentConfig, store: Store, tracker: Any, progress: Any) -> Record:
        self.ran.append(cell_id(config))
        self.configs.append(config)
        wanted = self.behaviour.get(config.seed, "finished")
        if isinstance(wanted, BaseException):
            raise wanted
        progress.start("training", 3)
        progress.advance(1)
        record = recorded(config, wanted)
        store.save(record)
        return record


@pytest.fixture
def experiment(monkeypatch: pytest.MonkeyPatch) -> FakeExperiment:
    fake = FakeExperiment()
    monkeypatch.setattr("qexp.runner.sweep.worker.run_experiment", fake)
    return fake


@pytest.fixture
def new_record() -> Callable[..., Record]:
    """:func:`recorded`."""
    return recorded
