"""What sweeps cost beside their experiments: planning, the way from cell to cell, resuming, and two workers for one.

Records and experiments are made up, but for the last figure: there six small networks are trained, on one thread each.

Run with: python benchmarks/sweep.py
"""

from __future__ import annotations

import itertools
import signal
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from measure import Report, Result, absolute, by_turns, difference, quartiles, seconds
from startup import QEXP

from qexp.conf.schema import ExperimentConfig
from qexp.results.schema import Record
from qexp.results.store import Store
from qexp.runner.compose import to_dict
from qexp.runner.identity import cell_id
from qexp.runner.rerun import config_of
from qexp.runner.sweep import worker
from qexp.runner.sweep.events import EventReader
from qexp.runner.sweep.folder import SweepFolder
from qexp.runner.sweep.heart import Heart
from qexp.runner.sweep.plan import plan_sweep

SMALL = ("model=tiny_bert", "task=pydocs_labels", "scale=smoke", "tracking=none")
THOUSAND = (
    *("method=vanilla,gated_attention,clipped_softmax,ptq,qat", "quant.bits=[w8a8],[w8a6]"),
    *("train.learning_rate=1e-5,2e-5,3e-5,4e-5,5e-5", "seed=range(0,20)", "model=minilm", "task=sst2"),
)
CELLS, DONE = 200, 180
SPEEDUP = 1.6


def measure(turns: int = 5) -> Report:
    with tempfile.TemporaryDirectory() as folder:
        number = itertools.count()
        fresh = partial(_new_folder, Path(folder), number)
        planning = by_turns({"plan": partial(plan_thousand, fresh)}, turns)["plan"]
        way = by_turns({"sweep": partial(run_made_up, fresh), "alone": partial(save_made_up, fresh)}, turns)
        resuming = by_turns({"resume": partial(resume, fresh)}, turns)["resume"]
        workers = by_turns({"one": partial(train, fresh, 1), "two": partial(train, fresh, 2)}, 2, warmup=0)
    told = f"{CELLS} cells, {DONE} done: `qexp resume` to the first start of a cell"
    return Report(
        [
            absolute("1,000 cells planned and shown: `qexp sweep --dry-run`", planning, "none: the whole command", 2.0),
            difference("a sweep's share in one cell", way["sweep"], way["alone"], "its record saved", 0.2),
            absolute(told, resuming, "none: the command and its worker", 2.0),
            speedup(workers["one"], workers["two"]),
        ]
    )


def speedup(one: list[float], two: list[float]) -> Result:
    """How many times sooner two workers finish, turn by turn."""
    ratios = [a / b for a, b in zip(one, two, strict=True)]
    low, high = quartiles(ratios)
    what, spread = "two workers of one thread, 6 cells", f"{low:.2f} x … {high:.2f} x, {len(ratios)} turns"
    figure, goal = f"{median(ratios):.2f} x as fast", f"at least {SPEEDUP} x"
    return Result(what, figure, spread, "one worker", goal, median(ratios) >= SPEEDUP)


def _new_folder(root: Path, number: Any) -> Path:
    folder = root / str(next(number))
    folder.mkdir()
    return folder


def plan_thousand(fresh: Any) -> float:
    command = [QEXP, "sweep", *THOUSAND, f"results_dir={fresh()}", "--dry-run"]
    return seconds(lambda: subprocess.run(command, check=True, capture_output=True))


def _planned(folder: Path, cells: int) -> SweepFolder:
    return SweepFolder.create(plan_sweep([*SMALL, f"results_dir={folder}", f"seed=range(0,{cells})"])[0])


def experiment(config: ExperimentConfig, store: Store, tracker: Any, progress: Any) -> Record:
    """In place of a real one: its record is there at once."""
    record = Record(cell_id(config), "finished", to_dict(config), {"wall_seconds": 1.0})
    store.save(record)
    return record


def run_made_up(fresh: Any) -> float:
    """Seconds a cell in a worker whose experiments take no time."""
    folder = _planned(fresh(), CELLS)
    heart, real = Heart(folder, parent=None), worker.run_experiment
    worker.run_experiment = experiment
    try:
        return seconds(worker.Worker(folder, folder.new_launch(), 3, threads=1, heart=heart).run) / CELLS
    finally:
        worker.run_experiment = real
        heart.end()


def save_made_up(fresh: Any) -> float:
    """The same experiments without a sweep."""
    folder = _planned(fresh(), CELLS)
    configs = [config_of(cell.config) for cell in folder.plan.cells]
    return seconds(lambda: [experiment(config, folder.store, None, None) for config in configs]) / CELLS


def resume(fresh: Any) -> float:
    """Seconds from the command to the event that says that a cell has started."""
    folder = _planned(fresh(), CELLS)
    for cell in folder.plan.cells[:DONE]:
        experiment(config_of(cell.config), folder.store, None, None)
    command = [QEXP, "resume", "launcher.workers=1", "--results-dir", str(folder.store.root), "--quiet"]
    begun, reader = time.perf_counter(), EventReader(folder.events)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not any(event.kind == "started" for event in reader.new()):
            time.sleep(0.005)
        took = time.perf_counter() - begun
        process.send_signal(signal.SIGTERM)
    return took


def train(fresh: Any, workers: int) -> float:
    """Seconds of a whole sweep over six small networks."""
    command = [QEXP, "sweep", *SMALL, "seed=range(0,6)", "train.max_steps=800", f"results_dir={fresh()}", "--quiet"]
    command += [f"launcher.workers={workers}", "launcher.threads=1", "launcher.memory=1"]
    return seconds(lambda: subprocess.run(command, check=True, capture_output=True))


if __name__ == "__main__":
    print(*measure().results, sep="\n")
