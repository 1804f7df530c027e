"""A sweep whose processes are killed again and again, on every launcher, against the same sweep left alone.

Nothing is measured. What must hold afterwards: the same table and figures as those of local workers that nobody killed,
no record lost or there twice, and no finished cell run again, by the event log and by the records' own files.

Run with: python benchmarks/sweep_kill.py [--kills 30] [--launchers local slurm ray] [--seed 1]
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import psutil

from qexp.results.store import CELL_ID, Store
from qexp.runner.sweep.claims import Claims
from qexp.runner.sweep.events import EventReader
from qexp.runner.sweep.folder import SweepFolder, find_sweep
from qexp.runner.sweep.plan import plan_sweep
from qexp.runner.sweep.state import CellState, Watch

PROGRAM = [sys.executable, "-c", "from qexp.cli.app import main; main()"]
LONGEST = 1800.0
"""Seconds without any of the awaited progress after which the trial is given up."""
ENOUGH = 0.5
"""Share of the kills that must land before the sweep ends: a kill can come too late on a machine that does more."""
DAEMONS = ("slurmd", "slurmctld")
SWEEP = (
    *("method=vanilla,gated_attention,clipped_softmax", "quant.bits=[w8a8],[w8a6]", "seed=range(0,3)"),
    *("model=minilm", "task=sst2", "scale=smoke", "tracking=none"),
)
LAUNCHERS = {
    "local": ("launcher.workers=2", "launcher.threads=1"),
    "slurm": ("launcher=slurm", "launcher.workers=2", "launcher.memory=2"),
    "ray": ("launcher=ray", "launcher.address=local", "launcher.workers=2", "launcher.memory=2"),
}


def launchers_here() -> list[str]:
    """Those of ``LAUNCHERS`` that this machine has."""
    there = {"local": True, "slurm": shutil.which("sbatch") is not None, "ray": find_spec("ray") is not None}
    return [name for name in LAUNCHERS if there[name]]


class Files:
    """The records below ``runs`` as files: each must stay the one that it was when it was first seen."""

    def __init__(self, runs: Path):
        self._runs = runs
        self._first: dict[Path, tuple[int, int]] = {}

    def look(self) -> int:
        """Number of records."""
        self._first = self._now() | self._first
        return len(self._first)

    def changed(self) -> list[str]:
        now = self._now()
        return [path.stem for path, first in self._first.items() if now.get(path) != first]

    def _now(self) -> dict[Path, tuple[int, int]]:
        found = {path: path.stat() for path in self._runs.glob("adhoc/*.json") if CELL_ID.fullmatch(path.stem)}
        return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in found.items()}


class Hostile:
    """One sweep in ``folder`` of which processes are killed, each ``delay`` seconds at most after its kill is due."""

    def __init__(self, folder: Path, kills: int, launcher: str, random: random.Random, delay: float):
        self._folder, self._kills, self._launcher, self._random = folder, kills, launcher, random
        self._delay = delay
        self.files = Files(folder / "runs")
        self.told: Counter[str] = Counter()
        """What was killed, and what it was doing -> how often."""

    def run(self) -> list[str]:
        """To the sweep's end. What went wrong on the way."""
        self._parent = self._start("sweep", *SWEEP, *LAUNCHERS[self._launcher], "sweep.max_crashes=1000")
        for due, victim in self._schedule():
            self._until(partial(self._is_due, due))
            self._wait(self._random.uniform(0, self._delay))
            self._kill(victim)
        self._until(lambda: False)
        landed, code = self.told.total(), self._parent.returncode
        few = landed < self._kills * ENOUGH
        return [
            *([f"only {landed} of {self._kills} kills landed before the sweep ended"] * few),
            *([f"the sweep ended with exit code {code}"] * (code != 0)),
        ]

    def _is_due(self, records: int) -> bool:
        """Whether there are so many records, and a cell runs."""
        return self.files.look() >= records and any(state.status == "running" for state in self._cells())

    def _schedule(self) -> Iterator[tuple[int, str]]:
        """For each kill: how many records there must be before, so that all land before the end, and the victim."""
        kills, cells = self._kills, len(plan_sweep(SWEEP)[0].cells)
        victims = ["parent", *(DAEMONS if self._launcher == "slurm" else ())]
        places = self._random.sample(range(1, kills), len(victims))
        for number in range(kills):
            yield number * (cells - 2) // kills, victims[places.index(number)] if number in places else "worker"

    def _kill(self, victim: str) -> None:
        if self._parent.poll() is not None:
            return
        if victim == "parent":
            self._parent.kill()
            self._parent.wait()
            self._parent = self._start("resume")  # at once: its workers may still run
        elif victim in DAEMONS:
            _kill_and_restart(victim)
        else:
            self._until(lambda: bool(_workers(self._folder)))
            process = self._random.choice(_workers(self._folder))
            victim = f"worker, {self._doing(process)}"
            process.kill()
        self.told[victim] += 1

    def _doing(self, process: psutil.Process) -> str:
        for state in self._cells():
            if state.status == "running" and state.message.startswith(f"process {process.pid} "):
                return state.progress.phase if state.progress else "preparing a cell"
        return "between cells"

    def _cells(self) -> tuple[CellState, ...]:
        if not list(self._folder.glob("runs/sweeps/*/plan.json")):
            return ()
        folder = find_sweep(self._folder / "runs")
        return Watch(folder, folder.launch()).look().cells

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        with (self._folder / "output").open("ab") as output:
            return subprocess.Popen([*PROGRAM, *arguments], cwd=self._folder, stdout=output, stderr=output)

    def _until(self, condition: Callable[[], bool]) -> None:
        """Wait for ``condition``, or for the end of the sweep's command."""
        end = time.monotonic() + LONGEST
        while self._parent.poll() is None and not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"nothing new in {LONGEST:.0f} s")
            self._wait(0.1)

    def _wait(self, seconds: float) -> None:
        self.files.look()
        time.sleep(seconds)


def _workers(folder: Path) -> list[psutil.Process]:
    """The living worker processes of the sweep in ``folder``, whoever started them."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        command = process.info["cmdline"] or []
        if "qexp.runner.sweep" in command and any(word.startswith(str(folder.resolve())) for word in command):
            found += [process] if process.info["status"] != psutil.STATUS_ZOMBIE else []
    return sorted(found, key=lambda process: process.pid)


def _kill_and_restart(daemon: str) -> None:
    (process,) = [process for process in psutil.process_iter(["name"]) if process.info["name"] == daemon]
    command = process.cmdline()
    process.kill()
    process.wait()
    time.sleep(2)
    subprocess.run(command, check=True)


def table(folder: Path) -> str:
    return subprocess.run([*PROGRAM, "table"], cwd=folder, check=True, capture_output=True, text=True).stdout


def differences(reference: Path, hostile: Path) -> list[str]:
    """What the killed sweep did otherwise than the undisturbed one, or did twice."""
    folder = find_sweep(hostile / "runs")
    planned = sorted(cell.cell_id for cell in folder.plan.cells)
    theirs, ours = (
        {record.cell_id: record.metrics for record in Store(at / "runs").query()} for at in (reference, hostile)
    )
    files = sorted(path.stem for path in (hostile / "runs").glob("*/*.json") if CELL_ID.fullmatch(path.stem))
    found = [f"run again after it had finished: {cell}" for cell in run_again(folder)]
    if table(reference) != table(hostile):
        found.append("the table is another one")
    if files != planned or sorted(ours) != planned:
        found.append(f"{len(planned)} cells, but records {files}")
    found += [f"other figures: {cell}" for cell in planned if ours.get(cell) != theirs[cell]]
    claims = Claims(folder.claims)
    found += [f"still claimed: {name}" for name in claims.names() if claims.holder(name)]
    return found


def run_again(folder: SweepFolder) -> Iterator[str]:
    """Cells that started or finished after they had finished, by the event log."""
    done: set[str] = set()
    for event in EventReader(folder.events).new():
        if event.cell in done and event.kind in ("started", "finished"):
            yield event.cell
        if event.kind == "finished":
            done.add(event.cell)


def undisturbed(folder: Path) -> float:
    """Run the sweep by local workers that are left alone; seconds a cell."""
    folder.mkdir()
    begun = time.monotonic()
    command = [*PROGRAM, "sweep", *SWEEP, *LAUNCHERS["local"], "--quiet"]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    took, cells = time.monotonic() - begun, len(list(folder.glob("runs/adhoc/*.json")))
    print(f"{cells} cells left alone: {took:.0f} s", flush=True)
    return took / cells


def killed(kills: int, launcher: str, seed: int, folder: Path, reference: Path, each: float) -> list[str]:
    """The sweep in ``folder`` with kills; prints what was done. What did not hold, a line each."""
    folder.mkdir()
    begun = time.monotonic()
    sweep = Hostile(folder, kills, launcher, random.Random(seed), each)
    faults = [*sweep.run(), *(f"its file was replaced: {cell}" for cell in sweep.files.changed())]
    faults += differences(reference, folder)
    print(f"launcher={launcher}: {time.monotonic() - begun:.0f} s with {sweep.told.total()} kills:")
    for what, times in sweep.told.most_common():
        print(f"  {times:3} {what}")
    told = "\n".join(faults) if faults else "the same table and figures; nothing lost, nothing twice, nothing run again"
    print(told, flush=True)
    return faults


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=30, help="of each launcher's sweep")
    parser.add_argument("--launchers", nargs="+", choices=LAUNCHERS, default=launchers_here())
    parser.add_argument("--seed", type=int, default=1, help="of the kills")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as root:
        reference = Path(root) / "undisturbed"
        each = undisturbed(reference)
        faults = [killed(given.kills, name, given.seed, Path(root) / name, reference, each) for name in given.launchers]
    return int(any(faults))


if __name__ == "__main__":
    sys.exit(main())
