"""The loop that every launcher runs: claim a cell, run it, keep its record, until none is left."""

from __future__ import annotations

import gc
import os
import sys
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from qexp.conf.errors import DiskFullError, RunError, UserError
from qexp.conf.schema import ExperimentConfig
from qexp.runner.checkpoints import discard
from qexp.runner.experiment import run_experiment
from qexp.runner.identity import partial_of
from qexp.runner.rerun import config_of
from qexp.runner.stopwatch import Stopwatch
from qexp.runner.sweep.claims import Claims
from qexp.runner.sweep.events import EventLog, EventReader
from qexp.runner.sweep.folder import SweepFolder
from qexp.runner.sweep.heart import Heart
from qexp.runner.sweep.plan import Cell
from qexp.runner.sweep.processes import INTERRUPTED, Process
from qexp.runner.sweep.progress import CellProgress
from qexp.runner.sweep.search import Pruned, make_search
from qexp.runner.tracking import make_tracker

SECONDS_BETWEEN_LOOKS = 1.0


class Worker:
    """Runs cells of ``folder``'s sweep in this process. ``threads`` is for cells that do not choose their own."""

    def __init__(self, folder: SweepFolder, launch: int, max_crashes: int, threads: int | None, heart: Heart):
        self._folder, self._launch, self._max_crashes = folder, launch, max_crashes
        self._threads, self._heart = threads, heart
        self._claims = Claims(folder.claims)
        self._log = EventLog(folder.events, f"{launch:04d}-{os.getpid()}-{uuid.uuid4().hex[:8]}", launch)
        self._reader = EventReader(folder.events)
        self._search = make_search(folder)
        self._given_up: set[str] = set()
        """Cells that failed in this launch, or were pruned."""
        self._deaths: Counter[str] = Counter()

    def run(self) -> None:
        """Return when every cell has a record or was given up, here or elsewhere, and there are to be no more.

        Raises:
            KeyboardInterrupt: when asked to stop; what was under way is checkpointed. DiskFullError.
        """
        self._read_events()
        while (pending := self._pending()) or self._search.propose():
            ran = [self._is_settled(cell) or self._attempt(cell) for cell in pending]
            if pending and not any(ran) and not self._search.propose():
                self._stop_if_cancelled()
                time.sleep(SECONDS_BETWEEN_LOOKS)  # others have what is left: wait, lest one of them dies
                self._read_events()

    def _stop_if_cancelled(self) -> None:
        if self._folder.cancelled():
            raise KeyboardInterrupt

    def _pending(self) -> list[Cell]:
        return [cell for cell in self._folder.cells() if not self._is_settled(cell)]

    def _is_settled(self, cell: Cell) -> bool:
        return cell.cell_id in self._given_up or self._folder.has_record(cell)

    def _read_events(self) -> None:
        for event in self._reader.new():
            current = event.launch == self._launch
            self._deaths[event.cell] += current and event.kind == "lost"
            if event.kind == "pruned" or (current and event.kind == "failed"):
                self._given_up.add(event.cell)

    def _attempt(self, cell: Cell) -> bool:
        """Run ``cell`` unless another process has it, or trains the network that it needs. Whether it is settled."""
        trained = self._folder.store.root / "trained"
        missing = (training for training in cell.trainings if not (trained / training).is_dir())
        names = (f"cell-{cell.cell_id}", *(f"training-{training}" for training in missing))
        with self._claims.held(names) as claims:
            if not claims:
                return False
            try:
                with self._heart.beating(claims):
                    self._read_events()
                    self._stop_if_cancelled()
                    if not self._is_settled(cell) and not self._died_too_often(cell, claims[0].took_over):
                        self._run(cell)
            finally:
                if self._folder.has_record(cell):
                    for claim in claims:
                        claim.forget_dead()
        return True

    def _died_too_often(self, cell: Cell, dead: Process | None) -> bool:
        if dead is None:
            return False
        self._log.append("lost", cell.cell_id, message=f"{dead} died")
        self._read_events()
        if (times := self._deaths[cell.cell_id]) < self._max_crashes:
            return False
        self._fail(
            cell,
            f"{times} processes died in it, the last was {dead}: killed, or ended by the system when memory ran out; "
            f"then {smaller(cell.config['train'])}",
        )
        return True

    def _run(self, cell: Cell) -> None:
        """From start to record, or to an event that says why there is none. All output goes to the cell's log."""
        with output_to(self._folder.log(cell)):
            self._log.append("started", cell.cell_id)
            print(f"# {cell.label}, {time.strftime('%Y-%m-%d %H:%M:%S')}, process {os.getpid()}", flush=True)
            watch = Stopwatch()
            try:
                with watch:
                    status = self._experiment(cell)
            except KeyboardInterrupt:
                print("stopped", flush=True)
                self._log.append("stopped", cell.cell_id)
                raise
            except Pruned as reason:
                self._give_up(cell, "pruned", str(reason))
                discard(partial_of(self._configuration(cell)))
            except Exception as error:
                if not isinstance(error, (UserError, RunError)):
                    traceback.print_exc()
                self._fail(cell, explain(error, watch.peak_memory, cell.config["train"]))
                if isinstance(error, DiskFullError):
                    raise
            else:
                self._log.append(status, cell.cell_id, seconds=round(watch.wall, 3))
            finally:
                with suppress(OSError):
                    self._folder.progress(cell).unlink(missing_ok=True)
                gc.collect()

    def _experiment(self, cell: Cell) -> str:
        config = self._configuration(cell)
        tracker, code = self._search.watched(make_tracker(config, cell.cell_id), cell), 1
        progress = CellProgress(self._folder.progress(cell))
        try:
            record = run_experiment(config, self._folder.store, tracker, progress)
            code = int(record.status != "finished")
            progress.finish()
            print(f"{record.status} {record.message}".rstrip(), flush=True)
            return record.status
        except KeyboardInterrupt:
            code = INTERRUPTED
            raise
        finally:
            progress.finish()
            tracker.close(code)

    def _configuration(self, cell: Cell) -> ExperimentConfig:
        """As planned, in this place, with this worker's share of the machine. None of it changes the cell."""
        config = config_of(cell.config)
        group = config.tracking.group or f"sweep {self._folder.plan.sweep_id[:8]}"
        if Path(config.results_dir).resolve() != self._folder.store.root.resolve():
            config = replace(config, results_dir=str(self._folder.store.root))
        return replace(config, threads=config.threads or self._threads, tracking=replace(config.tracking, group=group))

    def _fail(self, cell: Cell, message: str) -> None:
        self._give_up(cell, "failed", message)

    def _give_up(self, cell: Cell, kind: str, message: str) -> None:
        print(f"{kind}: {message}", flush=True)
        self._given_up.add(cell.cell_id)
        self._log.append(kind, cell.cell_id, message=message)


def explain(error: Exception, peak_memory: int, recipe: Mapping[str, Any]) -> str:
    """Why a cell has no record, in one line; of memory that ran out, with the peak [bytes] until then."""
    text = " ".join(str(error).split())
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if out_of_memory or "can't allocate memory" in text:
        return f"out of memory at {peak_memory / 2**30:.1f} GiB: {smaller(recipe)}; {text[:120]}".rstrip("; ")
    return text if isinstance(error, (UserError, RunError)) else f"{type(error).__name__}: {text}"


def smaller(recipe: Mapping[str, Any]) -> str:
    """What to try where memory ran out. Half the batch is a configuration, and so a cell, of its own: it is the user
    who decides whether its figures may stand in the place of the others."""
    batch, parts = recipe["batch_size"], recipe["gradient_accumulation"]
    halved = f", or train.batch_size={batch // 2} train.gradient_accumulation={parts * 2}" if batch % 2 == 0 else ""
    return f"try fewer workers (launcher.workers){halved}"


@contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Everything that this process writes, C code included, is appended to the file ``path`` meanwhile."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    try:
        with path.open("a", encoding="utf-8", buffering=1) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            with redirect_stdout(file), redirect_stderr(file):
                yield
    finally:
        for number, descriptor in enumerate(kept, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)
