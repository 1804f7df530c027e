"""A real sweep whose worker, and then whose parent, is killed without warning; another of Ray's, cancelled too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from qexp.runner.sweep.claims import Claims
from qexp.runner.sweep.events import Event, EventReader
from qexp.runner.sweep.folder import SweepFolder, find_sweep
from qexp.runner.sweep.state import Watch

PROGRAM = [sys.executable, "-c", "from qexp.cli.app import main; main()"]


def command(text_folder: Path) -> list[str]:
    """Two cells of eight steps of training each."""
    return [
        *("sweep", "model=tiny_bert", "task=text_folder", f"task.folder={text_folder}", "scale=smoke", "tracking=none"),
        *("task.max_length=32", "train.max_steps=8", "train.batch_size=4", "train.save_steps=1", "eval.outliers=false"),
        *("quant=none", "seed=1,2", "launcher.workers=1", "launcher.threads=1", "sweep.max_crashes=9"),
    ]


def wait_for(what: Callable[[], object], seconds: float = 240.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def events(folder: SweepFolder) -> list[Event]:
    return EventReader(folder.events).new()


def worker_of(parent: subprocess.Popen[bytes]) -> psutil.Process:
    (worker,) = psutil.Process(parent.pid).children()
    return worker


@pytest.mark.slow
def test_killed_workers_and_a_killed_parent_cost_no_record(text_folder: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with (tmp_path / "output").open("wb") as output:
        parent = subprocess.Popen([*PROGRAM, *command(text_folder)], cwd=tmp_path, stdout=output, stderr=output)
        wait_for(lambda: list(runs.glob("trained/*.partial/checkpoint-*/sealed.json")))
        folder = find_sweep(runs)
        worker_of(parent).kill()  # in the middle of the first cell
        wait_for(lambda: "finished" in [event.kind for event in events(folder)])
        orphan = worker_of(parent)
        parent.kill()
        parent.wait()
        wait_for(lambda: not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE)
    resumed = subprocess.run([*PROGRAM, "resume"], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.strip().endswith("2 cells: 2 finished")
    told = events(folder)
    finished = Counter(event.cell for event in told if event.kind == "finished")
    assert finished == {cell.cell_id: 1 for cell in folder.plan.cells}
    assert [event.kind for event in told if event.cell == folder.plan.cells[0].cell_id][:3] == [
        "started",
        "lost",
        "started",
    ]
    assert "going on from checkpoint-" in folder.log(folder.plan.cells[0]).read_text()
    assert Watch(folder, folder.launch()).look().counts() == {"finished": 2}
    claims = Claims(folder.claims)
    assert not any(claims.holder(name) for name in claims.names())


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'qexp[ray]'")
def test_a_killed_worker_a_cancellation_and_another_launcher_cost_no_record(text_folder: Path, tmp_path: Path) -> None:
    """The worker is killed in the first cell; after the second has begun the sweep is cancelled, and ends locally."""
    runs = tmp_path / "runs"
    words = [word for word in command(text_folder) if word != "launcher.threads=1"]
    longer = ("train.max_steps=100", "train.save_steps=10")  # the second cell must not end before it is cancelled
    ray = [*words, *longer, "launcher=ray", "launcher.memory=1.0"]
    with subprocess.Popen([*PROGRAM, *ray], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as parent:
        wait_for(lambda: list(runs.glob("trained/*.partial/checkpoint-*/sealed.json")))
        folder = find_sweep(runs)
        first, second = folder.plan.cells
        holder = Claims(folder.claims).holder(f"cell-{first.cell_id}")
        assert holder is not None
        os.kill(holder.pid, signal.SIGKILL)
        wait_for(lambda: ("started", second.cell_id) in [(event.kind, event.cell) for event in events(folder)])
        folder.cancel()
        out, err = parent.communicate(timeout=120)
    assert (parent.returncode, out.count(b"\n")) == (130, 1), err.decode()
    kinds = [event.kind for event in events(folder) if event.cell == first.cell_id]
    assert kinds == ["started", "lost", "started", "finished"]
    resumed = subprocess.run([*PROGRAM, "resume", "launcher=local"], cwd=tmp_path, capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.strip().endswith("2 cells: 2 finished")
