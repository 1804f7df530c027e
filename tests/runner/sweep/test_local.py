"""``launcher=local`` with several real processes. Their experiments are made up (``made_up_worker.py``)."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from qexp.conf.sweeps import LauncherConfig
from qexp.runner.sweep import local
from qexp.runner.sweep.drive import Outcome, Show, drive
from qexp.runner.sweep.events import Event, EventReader
from qexp.runner.sweep.folder import SweepFolder
from qexp.runner.sweep.local import LocalPool
from qexp.runner.sweep.sizing import Machine, share_out
from qexp.runner.sweep.state import Snapshot

Drive = Callable[..., Outcome]


@pytest.fixture
def drive_made_up(monkeypatch: pytest.MonkeyPatch) -> Drive:
    """``drive_made_up(folder, 2, machine)``: the sweep to its end, by two workers that share ``machine``."""
    command = local.worker_command
    script = str(Path(__file__).with_name("made_up_worker.py"))
    monkeypatch.setattr(local, "worker_command", lambda *given: [sys.executable, script, *command(*given)[3:]])
    monkeypatch.setattr("qexp.runner.sweep.drive.SECONDS_BETWEEN_LOOKS", 0.02)

    def run(folder: SweepFolder, workers: int, machine: Machine, show: Show = lambda *_: None) -> Outcome:
        monkeypatch.setenv("MADE_UP_WORKERS", str(workers))
        slots = share_out(LauncherConfig("local", workers), len(folder.plan.cells), machine, 0.1, on_gpu=False)
        launch = folder.new_launch(["sweep.max_crashes=99"])
        return drive(folder, launch, LocalPool(folder, launch, slots), show)

    return run


def started(folder: SweepFolder) -> Counter[str]:
    return Counter(event.cell for event in EventReader(folder.events).new() if event.kind == "started")


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_two_workers_have_cores_of_their_own_and_share_the_cells(new_sweep: Any, drive_made_up: Drive) -> None:
    folder, (one, other, *_) = new_sweep("seed=range(0,12)"), sorted(os.sched_getaffinity(0))
    outcome = drive_made_up(folder, 2, Machine((one, other), memory=1.0))
    assert outcome.snapshot.counts() == {"finished": 12}
    facts = [record.provenance for record in folder.store.query()]
    assert all(fact["threads"] == 1 for fact in facts)
    cores = {fact["pid"]: tuple(fact["cores"]) for fact in facts}
    assert sorted(cores.values()) == [(one,), (other,)]
    assert started(folder) == {cell.cell_id: 1 for cell in folder.plan.cells}


def test_workers_that_are_killed_in_their_cells_are_started_again(new_sweep: Any, drive_made_up: Drive) -> None:
    folder, killed = new_sweep("seed=range(0,5)"), []

    def kill(snapshot: Snapshot, events: list[Event]) -> None:
        """Each process that starts a cell, until there were three."""
        for event in events:
            pid = int(event.writer.split("-")[1]) if event.kind == "started" else None
            if pid is not None and pid not in killed and len(killed) < 3:
                psutil.Process(pid).kill()
                killed.append(pid)

    outcome = drive_made_up(folder, 1, Machine((0,), memory=1.0), kill)
    assert len(killed) == 3 and outcome.snapshot.counts() == {"finished": 5}
    finished = [event.cell for event in EventReader(folder.events).new() if event.kind == "finished"]
    assert len(finished) == len(set(finished)) and len(folder.store.query()) == 5
