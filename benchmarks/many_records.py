"""What planning costs, and making every table and the report of 2,000 records: CPU seconds of the whole commands.

Run with: python benchmarks/many_records.py
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

from measure import Report, absolute, by_turns

from qexp.conf.catalog import SCALES
from qexp.conf.schema import ExperimentConfig
from qexp.results.library import REFERENCE
from qexp.results.schema import Metric, Record
from qexp.results.store import Store
from qexp.runner.compose import to_dict
from qexp.runner.identity import cell_id
from qexp.runner.plan import plan, table_names

RECORDS = 2000
MODEL = REFERENCE / "quantizable_transformers.finetuned_encoder"
"""A table of records with outlier statistics of 81 sites and a curve, which the made-up ones have too."""
QEXP = [sys.executable, "-c", "from qexp.cli.app import main; main()"]


def experiments() -> Iterator[ExperimentConfig]:
    """The experiments of all tables, each once, scale by scale."""
    seen = set()
    for scale in SCALES[1:]:
        for name in table_names():
            for config in plan(name, [f"scale={scale}"]):
                if (identity := cell_id(config)) not in seen:
                    seen.add(identity)
                    yield config


def made_up(config: ExperimentConfig, model: Record, chance: random.Random) -> Record:
    """A record of ``config`` with everything that ``model`` holds, and figures by chance."""
    settings = ["float", *config.quant.bits]
    metrics = {
        setting: {"accuracy": Metric(chance.random(), True, 872, "share of right answers")} for setting in settings
    }
    provenance = {**model.provenance, "training_id": cell_id(config)}
    return replace(model, cell_id=cell_id(config), config=to_dict(config), metrics=metrics, provenance=provenance)


def fill(folder: Path) -> None:
    store, chance = Store(folder), random.Random(0)
    model = Store(MODEL).query()[0]
    for config in islice(experiments(), RECORDS):
        store.save(made_up(config, model, chance))


def cpu_seconds(command: list[str]) -> float:
    """User and system time of a command: what a busy machine does not change."""
    before = os.times()
    subprocess.run([*QEXP, *command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


def measure(turns: int = 3) -> Report:
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        fill(runs)
        commands = {
            "`qexp plan all`, no records": ["plan", "all", f"results_dir={folder}/none"],
            f"`qexp claims`, every table of {RECORDS:,} records": ["claims", "--results-dir", str(runs)],
            f"`qexp report` of {RECORDS:,} records": ["report", "--results-dir", str(runs), "--to", f"{folder}/x.html"],
        }
        figures = by_turns({name: partial(cpu_seconds, words) for name, words in commands.items()}, turns, warmup=0)
        print(f"the report has {(Path(folder) / 'x.html').stat().st_size / 1e6:.1f} MB")
    limits = dict(zip(commands, (2.0, 5.0, 5.0), strict=True))
    against = "none: CPU time of the whole command"
    return Report([absolute(name, figures[name], against, limit) for name, limit in limits.items()])


if __name__ == "__main__":
    print(*measure().results, sep="\n")
