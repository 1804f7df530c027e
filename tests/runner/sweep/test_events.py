"""The event log and the folder: nothing torn is read, nothing is counted twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from qexp.conf.errors import UserError
from qexp.runner.sweep.events import EventLog, EventReader
from qexp.runner.sweep.folder import SweepFolder, find_sweep
from qexp.runner.sweep.plan import SweepPlan, plan_sweep


def test_events_of_several_writers_are_read_once_each_in_order(tmp_path: Path) -> None:
    one, two, reader = EventLog(tmp_path, "one", 1), EventLog(tmp_path, "two", 1), EventReader(tmp_path)
    one.append("started", cell="a")
    two.append("started", cell="b")
    one.append("finished", cell="a", seconds=1.5)
    events = reader.new()
    assert [(event.writer, event.kind, event.cell) for event in events if event.writer == "one"] == [
        ("one", "started", "a"),
        ("one", "finished", "a"),
    ]
    assert len(events) == 3 and events == sorted(events, key=lambda event: event.time)
    assert reader.new() == []
    two.append("failed", cell="b", message="no\nlines")
    assert [event.message for event in reader.new()] == ["no\nlines"]


def test_a_torn_line_is_passed_over_and_costs_no_other(tmp_path: Path) -> None:
    log, reader = EventLog(tmp_path, "one", 1), EventReader(tmp_path)
    log.append("started", cell="a")
    with (tmp_path / "one.jsonl").open("a") as file:
        file.write('{"time": "2026-01-01T00:00')  # the disk was full here
    assert len(reader.new()) == 1
    log.append("finished", cell="a")
    assert [event.kind for event in reader.new()] == ["finished"]
    assert [event.kind for event in EventReader(tmp_path).new()] == ["started", "finished"]


@pytest.fixture
def plan(tmp_path: Path) -> SweepPlan:
    return plan_sweep(["model=tiny_bert", "task=pydocs", "scale=smoke", f"results_dir={tmp_path}", "seed=1,2"])[0]


def test_a_sweep_is_found_by_the_beginning_of_its_id(tmp_path: Path, plan: SweepPlan) -> None:
    with pytest.raises(UserError, match="no sweep in"):
        find_sweep(tmp_path)
    folder = SweepFolder.create(plan)
    assert find_sweep(tmp_path).plan == find_sweep(tmp_path, plan.sweep_id[:5]).plan == plan
    assert find_sweep(tmp_path).path == folder.path
    with pytest.raises(UserError, match="begins with 'x'; there are: " + plan.sweep_id):
        find_sweep(tmp_path, "x")


def test_launches_are_counted_and_a_cancellation_can_be_taken_back(plan: SweepPlan) -> None:
    folder = SweepFolder.create(plan)
    assert [folder.launch(), folder.new_launch(), folder.new_launch(), folder.launch()] == [0, 1, 2, 2]
    folder.cancel()
    assert folder.cancelled()
    folder.allow()
    folder.allow()
    assert not folder.cancelled()
    assert folder.store.query() == []


def test_a_folder_that_cannot_be_written_is_bad_input(tmp_path: Path, plan: SweepPlan) -> None:
    from dataclasses import replace

    (tmp_path / "file").touch()
    cells = tuple(
        replace(cell, config={**cell.config, "results_dir": str(tmp_path / "file" / "runs")}) for cell in plan.cells
    )
    with pytest.raises(UserError, match="choose another folder with results_dir"):
        SweepFolder.create(replace(plan, cells=cells))
