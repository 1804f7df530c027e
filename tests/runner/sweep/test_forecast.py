"""What a sweep will take, from made-up records of its kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qexp.runner.rerun import config_of
from qexp.runner.sweep import forecast as module
from qexp.runner.sweep.folder import SweepFolder
from qexp.runner.sweep.forecast import forecast


@pytest.fixture(autouse=True)
def none_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "committed", list)


def finish(folder: SweepFolder, new_record: Any, place: int) -> None:
    """The cell's record: 30 s of training, 50 s in all, 3 GiB at the peak."""
    cell = folder.plan.cells[place]
    record = new_record(config_of(cell.config))
    facts = {**record.provenance, "wall_seconds": 50.0, "training_id": cell.trainings[0]}
    folder.store.save(replace(record, provenance=facts, timings={"train": 30.0}))


def test_nothing_is_known_without_records(new_sweep: Any) -> None:
    folder = new_sweep("seed=1,2")
    found = forecast(folder, folder.plan.cells)
    assert (found.experiments, found.seconds, found.memory, found.unknown) == (2, 0.0, None, 4)


def test_cells_cost_what_earlier_ones_did_and_train_shared_networks_once(new_sweep: Any, new_record: Any) -> None:
    folder = new_sweep("quant.bits=[w8a8],[w4a8]", "seed=1,2,3")
    finish(folder, new_record, 0)
    found = forecast(folder, folder.plan.cells[1:])
    assert (found.experiments, found.unknown, found.memory) == (5, 0, 3 * 2**30)
    assert found.trainings == 3 and found.seconds == pytest.approx(3 * 30 + 5 * 20)


def test_a_network_that_lies_trained_costs_nothing(new_sweep: Any, new_record: Any, tmp_path: Path) -> None:
    folder = new_sweep("seed=1,2")
    finish(folder, new_record, 0)
    (tmp_path / "runs" / "trained" / folder.plan.cells[1].trainings[0]).mkdir(parents=True)
    assert forecast(folder, folder.plan.cells[1:]).seconds == pytest.approx(20)


def test_predictions_equal_those_of_qexp_plan(new_sweep: Any, new_record: Any) -> None:
    from qexp.runner.predict import Predictor, total

    folder = new_sweep("train.max_steps=4,8", "seed=1,2")
    finish(folder, new_record, 0)
    predictor = Predictor(folder.store.query())
    ours = forecast(folder, folder.plan.cells)
    theirs = total(predictor.cost(config_of(cell.config)) for cell in folder.plan.cells)
    assert (ours.seconds, ours.unknown, ours.memory) == (theirs.seconds, theirs.unknown, theirs.memory)
