"""The worker's loop: every cell once, whatever fails, dies, or runs elsewhere. The experiment itself is replaced."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qexp.conf.errors import DiskFullError, UserError
from qexp.runner.sweep.claims import Claims
from qexp.runner.sweep.events import EventReader
from qexp.runner.sweep.folder import SweepFolder
from qexp.runner.sweep.heart import Heart
from qexp.runner.sweep.processes import this_process
from qexp.runner.sweep.state import Watch
from qexp.runner.sweep.worker import Worker, explain

Run = Callable[..., None]


@pytest.fixture
def run() -> Iterator[Run]:
    """``run(folder, max_crashes=3)``: the worker's loop in this process, to its end."""
    hearts = []

    def work(folder: SweepFolder, max_crashes: int = 3, launch: int = 1) -> None:
        hearts.append(Heart(folder, parent=None, seconds=0.05))
        Worker(folder, launch, max_crashes, threads=1, heart=hearts[-1]).run()

    yield work
    for heart in hearts:
        heart.end()


def kinds(folder: SweepFolder) -> list[tuple[str, str]]:
    labels = {cell.cell_id: cell.label for cell in folder.plan.cells}
    return [(event.kind, labels[event.cell]) for event in EventReader(folder.events).new()]


def leave_dead_claim(folder: SweepFolder, name: str) -> None:
    dead = replace(this_process(), started="before")
    (folder.claims / f"{name}.1").write_text(json.dumps({"token": "1", "process": vars(dead)}))


def test_every_cell_is_run_once_and_nothing_is_left_claimed(new_sweep: Any, run: Run, experiment: Any) -> None:
    folder = new_sweep("seed=1,2")
    run(folder)
    run(folder)
    assert experiment.ran == [cell.cell_id for cell in folder.plan.cells]
    assert kinds(folder) == [(kind, label) for label in ("seed=1", "seed=2") for kind in ("started", "finished")]
    assert not list(folder.claims.iterdir()) and not list((folder.root / "progress").iterdir())
    assert "# seed=1, " in folder.log(folder.plan.cells[0]).read_text()
    assert Watch(folder, 1).look().counts() == {"finished": 2}


def test_what_a_worker_adds_to_a_configuration_changes_no_cell(new_sweep: Any, run: Run, experiment: Any) -> None:
    folder = new_sweep()
    run(folder)
    (config,) = experiment.configs
    assert config.threads == 1 and config.tracking.group == f"sweep {folder.plan.sweep_id[:8]}"
    assert experiment.ran == [folder.plan.cells[0].cell_id]


def test_a_cell_that_fails_costs_no_other(new_sweep: Any, run: Run, experiment: Any) -> None:
    experiment.behaviour = {1: UserError("no such data"), 2: "diverged", 3: ZeroDivisionError("by\nzero")}
    folder = new_sweep("seed=1,2,3,4")
    run(folder)
    snapshot = Watch(folder, 1).look()
    assert [state.status for state in snapshot.cells] == ["failed", "diverged", "failed", "finished"]
    assert [state.message for state in snapshot.cells if state.status == "failed"] == [
        "no such data",
        "ZeroDivisionError: by zero",
    ]
    assert "Traceback" in folder.log(folder.plan.cells[2]).read_text()
    assert "Traceback" not in folder.log(folder.plan.cells[0]).read_text()


def test_a_new_launch_tries_again_what_failed_and_nothing_else(new_sweep: Any, run: Run, experiment: Any) -> None:
    experiment.behaviour = {1: UserError("no such data")}
    folder = new_sweep("seed=1,2")
    run(folder)
    experiment.ran.clear()
    experiment.behaviour.clear()
    assert Watch(folder, 2).look().counts() == {"finished": 1, "waiting": 1}
    run(folder, launch=2)
    assert experiment.ran == [folder.plan.cells[0].cell_id]
    assert Watch(folder, 2).look().counts() == {"finished": 2}


def test_a_full_disk_ends_the_worker(new_sweep: Any, run: Run, experiment: Any) -> None:
    experiment.behaviour = {1: DiskFullError("no space left")}
    folder = new_sweep("seed=1,2")
    with pytest.raises(DiskFullError):
        run(folder)
    assert len(experiment.ran) == 1 and not list(folder.claims.iterdir())


def test_the_cell_of_a_dead_process_is_taken_over(new_sweep: Any, run: Run, experiment: Any) -> None:
    folder = new_sweep()
    leave_dead_claim(folder, f"cell-{folder.plan.cells[0].cell_id}")
    run(folder)
    assert [kind for kind, _ in kinds(folder)] == ["lost", "started", "finished"]
    assert not list(folder.claims.iterdir())


def test_a_cell_in_which_processes_keep_dying_has_failed(new_sweep: Any, run: Run, experiment: Any) -> None:
    folder = new_sweep("seed=1,2")
    leave_dead_claim(folder, f"cell-{folder.plan.cells[0].cell_id}")
    run(folder, max_crashes=1)
    state = Watch(folder, 1).look().cells[0]
    assert state.status == "failed" and state.message.startswith("1 processes died in it")
    assert "ended by the system when memory ran out; then try fewer workers" in state.message
    assert experiment.ran == [folder.plan.cells[1].cell_id]


def test_a_network_is_trained_by_one_process_and_other_cells_run_meanwhile(
    new_sweep: Any, run: Run, experiment: Any
) -> None:
    folder = new_sweep("seed=1,2")
    first, second = folder.plan.cells
    with Claims(folder.claims).held((f"training-{first.trainings[0]}",)) as (claim,):

        def let_go() -> None:
            while not folder.has_record(second):
                time.sleep(0.01)
            claim.release()

        threading.Thread(target=let_go).start()
        run(folder)
    assert experiment.ran == [second.cell_id, first.cell_id]


def test_a_trained_network_is_for_all(new_sweep: Any, run: Run, experiment: Any) -> None:
    folder = new_sweep()
    (training,) = folder.plan.cells[0].trainings
    (folder.store.root / "trained" / training).mkdir(parents=True)
    with Claims(folder.claims).held((f"training-{training}",)):
        run(folder)
    assert len(experiment.ran) == 1


def test_a_clock_that_is_wrong_hides_no_record(new_sweep: Any, run: Run, experiment: Any) -> None:
    """The process that failed in it has a clock far ahead of that which finished it."""
    folder = new_sweep("seed=1")
    run(folder)
    ahead = {"time": "2999-01-01", "kind": "failed", "launch": 1, "writer": "far", "cell": folder.plan.cells[0].cell_id}
    (folder.events / "far.jsonl").write_text(json.dumps(ahead) + "\n")
    assert Watch(folder, 1).look().counts() == {"finished": 1}


def test_two_sweeps_over_the_same_cells_share_the_work(new_sweep: Any, run: Run, experiment: Any) -> None:
    one, other = new_sweep("seed=1,2"), new_sweep("seed=2,3")
    run(one)
    run(other)
    assert len(experiment.ran) == len(set(experiment.ran)) == 3
    assert Watch(other, 1).look().counts() == {"finished": 2}


def test_a_cancelled_sweep_stops_at_once(new_sweep: Any, run: Run, experiment: Any) -> None:
    folder = new_sweep("seed=1")
    folder.cancel()
    with pytest.raises(KeyboardInterrupt):
        run(folder)
    assert experiment.ran == []


def test_a_stopped_cell_is_let_go_and_waits(new_sweep: Any, run: Run, experiment: Any) -> None:
    experiment.behaviour = {1: KeyboardInterrupt()}
    folder = new_sweep("seed=1,2")
    with pytest.raises(KeyboardInterrupt):
        run(folder)
    assert kinds(folder) == [("started", "seed=1"), ("stopped", "seed=1")]
    assert Watch(folder, 1).look().counts() == {"waiting": 2}


def test_running_cells_are_seen_with_their_progress(new_sweep: Any, tmp_path: Path) -> None:
    folder = new_sweep("seed=1,2")
    cell = folder.plan.cells[0]
    folder.progress(cell).write_text('{"phase": "training", "done": 2, "total": 6, "note": "loss 1.0"}')
    with Claims(folder.claims).held((f"cell-{cell.cell_id}",)):
        snapshot = Watch(folder, 1).look()
        state = snapshot.cells[0]
        assert state.status == "running" and state.message == str(this_process())
        assert state.progress is not None and (state.progress.done, state.progress.total) == (2, 6)
        assert snapshot.seconds_left() is None
    leave_dead_claim(folder, f"cell-{cell.cell_id}")
    assert Watch(folder, 1).look().counts() == {"waiting": 2}


def test_time_left_is_the_mean_of_finished_cells(new_sweep: Any, run: Run, experiment: Any) -> None:
    run(new_sweep("seed=1"))
    folder = new_sweep("seed=1,2,3")
    snapshot = Watch(folder, 1).look()
    assert snapshot.counts() == {"finished": 1, "waiting": 2}
    assert snapshot.seconds_left() == 2 * 2.0


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_memory_that_ran_out_is_told_with_its_peak(error: Exception) -> None:
    told = explain(error, 3 * 2**30, {"batch_size": 8, "gradient_accumulation": 2})
    assert told.startswith(
        "out of memory at 3.0 GiB: try fewer workers (launcher.workers), or train.batch_size=4 train"
    )
    assert "train.gradient_accumulation=4" in told
    assert "batch_size" not in explain(error, 3 * 2**30, {"batch_size": 1, "gradient_accumulation": 2})
