"""The workers that ``launcher=…`` asks for."""

from __future__ import annotations

from collections.abc import Sequence

from qexp.conf.errors import UserError
from qexp.conf.sweeps import AnyLauncher, LauncherConfig, RayConfig, SlurmConfig
from qexp.runner.sweep.drive import Pool
from qexp.runner.sweep.folder import SweepFolder
from qexp.runner.sweep.local import LocalPool
from qexp.runner.sweep.plan import Cell
from qexp.runner.sweep.ray_cluster import connect
from qexp.runner.sweep.ray_pool import RayPool
from qexp.runner.sweep.sizing import GIB, Slot, share_out, this_machine
from qexp.runner.sweep.slurm import SlurmPool, check_cluster


def make_slots(launcher: AnyLauncher, todo: Sequence[Cell], memory: int | None) -> list[Slot]:
    """One for each worker, of ``memory`` bytes as far as that is known.

    Raises ``UserError`` where the machine or the cluster cannot have them.
    """
    if isinstance(launcher, LauncherConfig):
        on_gpu = any(cell.config["device"] != "cpu" for cell in todo)
        devices = max((_devices(cell) for cell in todo), default=1)
        return share_out(launcher, len(todo), this_machine(), memory and memory / GIB, on_gpu, devices)
    _check_gpus(launcher, todo)
    if isinstance(launcher, RayConfig):
        connect(launcher)
    else:
        check_cluster()
    return [Slot(number, launcher.cpus) for number in range(launcher.workers)]


def _devices(cell: Cell) -> int:
    trainings = (cell.config["train"], *([before["train"]] if (before := cell.config.get("pretraining")) else ()))
    return max(int(train.get("devices", 1)) for train in trainings)


def _check_gpus(launcher: SlurmConfig | RayConfig, todo: Sequence[Cell]) -> None:
    """Raise ``UserError`` where a cell trains on more GPUs than a worker asks the cluster for."""
    most = max((_devices(cell) for cell in todo if cell.config["device"] != "cpu"), default=1)
    if most > max(launcher.gpus, 1):
        raise UserError(
            f"train.devices={most} needs a worker that has as many GPUs: add launcher.gpus={most} "
            f"(launcher={launcher.name} asks for {launcher.gpus:g})"
        )


def make_pool(folder: SweepFolder, launch: int, launcher: AnyLauncher, slots: list[Slot]) -> Pool:
    if isinstance(launcher, SlurmConfig):
        return SlurmPool(folder, launch, launcher, slots)
    if isinstance(launcher, RayConfig):
        return RayPool(folder, launch, launcher, slots)
    return LocalPool(folder, launch, slots)
