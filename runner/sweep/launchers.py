"""The workers that ``launcher=…`` asks for."""

from __future__ import annotations

from qexp.conf.sweeps import AnyLauncher, LauncherConfig, RayConfig, SlurmConfig
from qexp.runner.sweep.drive import Pool
from qexp.runner.sweep.folder import SweepFolder
from qexp.runner.sweep.local import LocalPool
from qexp.runner.sweep.ray_cluster import connect
from qexp.runner.sweep.ray_pool import RayPool
from qexp.runner.sweep.sizing import Slot, predicted_memory, share_out, this_machine
from qexp.runner.sweep.slurm import SlurmPool, check_cluster
from qexp.runner.sweep.state import Snapshot


def make_slots(folder: SweepFolder, launcher: AnyLauncher, snapshot: Snapshot) -> list[Slot]:
    """One for each worker. Raises ``UserError`` where the machine or the cluster cannot have them."""
    if isinstance(launcher, LauncherConfig):
        return _local_slots(folder, launcher, snapshot)
    if isinstance(launcher, RayConfig):
        connect(launcher)
    else:
        check_cluster()
    return [Slot(number, launcher.cpus) for number in range(launcher.workers)]


def _local_slots(folder: SweepFolder, launcher: LauncherConfig, snapshot: Snapshot) -> list[Slot]:
    todo = [state.cell for state in snapshot.cells if not state.settled]
    models = {cell.config["model"]["name"] for cell in todo}
    memory = launcher.memory or predicted_memory(folder.store.query(), models)
    on_gpu = any(cell.config["device"] != "cpu" for cell in todo)
    return share_out(launcher, len(todo), this_machine(), memory, on_gpu)


def make_pool(folder: SweepFolder, launch: int, launcher: AnyLauncher, slots: list[Slot]) -> Pool:
    if isinstance(launcher, SlurmConfig):
        return SlurmPool(folder, launch, launcher, slots)
    if isinstance(launcher, RayConfig):
        return RayPool(folder, launch, launcher, slots)
    return LocalPool(folder, launch, slots)
