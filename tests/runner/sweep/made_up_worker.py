"""A worker process whose experiments are over at once: ``python made_up_worker.py ARGUMENTS OF A WORKER``.

Its records tell in which process and on which cores they were made. The first of each process waits until as many
processes as MADE_UP_WORKERS says have begun one.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from qexp.conf.schema import ExperimentConfig
from qexp.results.schema import Record
from qexp.results.store import Store
from qexp.runner.compose import to_dict
from qexp.runner.identity import cell_id
from qexp.runner.sweep import worker
from qexp.runner.sweep.__main__ import main


def experiment(config: ExperimentConfig, store: Store, tracker: Any, progress: Any) -> Record:
    (store.root / f"process-{os.getpid()}").touch()
    while len(list(store.root.glob("process-*"))) < int(os.environ["MADE_UP_WORKERS"]):
        time.sleep(0.01)
    time.sleep(0.02)
    facts = {"pid": os.getpid(), "cores": sorted(os.sched_getaffinity(0)), "threads": config.threads}
    record = Record(cell_id(config), "finished", to_dict(config), facts)
    store.save(record)
    return record


if __name__ == "__main__":
    worker.run_experiment = experiment
    sys.exit(main(sys.argv[1:]))
