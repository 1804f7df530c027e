"""The workers that ``launcher=…`` asks for."""

from __future__ import annotations

from collections.abc import Sequence

from qexp.conf.sweeps import LauncherConfig, SlurmConfig
from qexp.runner.sweep.drive import Pool
from qexp.runner.sweep.folder import SweepFolder
from qexp.runner.sweep.local import LocalPool
from qexp.runner.sweep.plan import Cell
from qexp.runner.sweep.sizing import GIB, Slot, share_out, this_machine
from qexp.runner.sweep.slurm import SlurmPool, check_cluster


def make_slots(launcher: LauncherConfig | SlurmConfig, todo: Sequence[Cell], memory: int | None) -> list[Slot]:
    """One for each worker, of ``memory`` bytes as far as that is known.

    Raises ``UserError`` where the machine or the cluster cannot have them.
    """
    if isinstance(launcher, SlurmConfig):
        check_cluster()
        return [Slot(number, launcher.cpus) for number in range(launcher.workers)]
    on_gpu = any(cell.config["device"] != "cpu" for cell in todo)
    return share_out(launcher, len(todo), this_machine(), memory and memory / GIB, on_gpu)


def make_pool(folder: SweepFolder, launch: int, launcher: LauncherConfig | SlurmConfig, slots: list[Slot]) -> Pool:
    if isinstance(launcher, SlurmConfig):
        return SlurmPool(folder, launch, launcher, slots)
    return LocalPool(folder, launch, slots)
