"""How a machine is shared out among workers."""

from __future__ import annotations

import pytest

from qexp.conf.errors import UserError
from qexp.conf.sweeps import LauncherConfig, RayConfig, SlurmConfig
from qexp.runner.sweep.launchers import make_slots
from qexp.runner.sweep.local import environment
from qexp.runner.sweep.plan import make_cells
from qexp.runner.sweep.sizing import UNKNOWN_MEMORY, Machine, share_out, this_machine

MACHINE = Machine(cores=(0, 1, 4, 5), memory=16.0)


def shares(cells: int = 100, memory: float | None = 1.0, machine: Machine = MACHINE, **launcher: object) -> list[tuple]:
    slots = share_out(LauncherConfig("local", **launcher), cells, machine, memory, on_gpu=bool(machine.gpus))
    assert [slot.number for slot in slots] == list(range(len(slots)))
    return [(slot.threads, slot.cores) for slot in slots]


def test_workers_fill_the_cores_and_are_pinned_to_their_own() -> None:
    assert shares() == [(1, (0,)), (1, (1,)), (1, (4,)), (1, (5,))]
    assert shares(cells=2) == [(2, (0, 1)), (2, (4, 5))]
    assert shares(workers=2) == shares(threads=2) == shares(cells=2)


@pytest.mark.parametrize("launcher", [{"workers": 3}, {"workers": 1, "threads": 1}, {"workers": 8}])
def test_workers_that_do_not_fill_the_machine_exactly_run_anywhere(launcher: dict[str, int]) -> None:
    assert {cores for _, cores in shares(**launcher)} == {()}


def test_memory_limits_the_workers() -> None:
    assert len(shares(memory=6.0)) == 2
    assert len(shares(memory=60.0)) == 1
    assert len(shares(memory=4.0, workers=4)) == 4
    with pytest.raises(UserError, match=r"launcher\.workers=4 would need 24\.0 GiB.* at most 2"):
        shares(memory=6.0, workers=4)


def test_a_worker_for_each_gpu() -> None:
    machine = Machine(cores=tuple(range(8)), memory=64.0, gpus=("0", "3"))
    slots = share_out(LauncherConfig("local"), 10, machine, 1.0, on_gpu=True)
    assert [(slot.gpus, slot.threads) for slot in slots] == [(("0",), 4), (("3",), 4)]
    assert len(share_out(LauncherConfig("local"), 10, machine, 1.0, on_gpu=False)) == 8


def test_a_worker_has_as_many_gpus_as_a_cell_trains_on() -> None:
    machine = Machine(cores=tuple(range(8)), memory=64.0, gpus=("0", "1", "2", "5", "7"))
    slots = share_out(LauncherConfig("local"), 10, machine, 1.0, on_gpu=True, devices=2)
    assert [slot.gpus for slot in slots] == [("0", "1"), ("2", "5")]
    assert environment(slots[1])["CUDA_VISIBLE_DEVICES"] == "2,5"
    with pytest.raises(UserError, match=r"train\.devices=8: this machine has 5 GPUs"):
        share_out(LauncherConfig("local"), 10, machine, 1.0, on_gpu=True, devices=8)
    assert len(share_out(LauncherConfig("local"), 10, machine, None, on_gpu=False, devices=8)) == 4, "memory of each"


@pytest.mark.parametrize("launcher", [SlurmConfig("slurm", gpus=1), RayConfig("ray", gpus=1.0)])
def test_a_cluster_is_asked_for_the_gpus_of_a_cell(launcher: SlurmConfig | RayConfig) -> None:
    (cell,) = make_cells([("train.devices=2",)], [])
    with pytest.raises(UserError, match=r"train\.devices=2 needs .* add launcher\.gpus=2"):
        make_slots(launcher, [cell], None)


def test_memory_of_which_nothing_is_known_is_a_guess() -> None:
    assert shares(memory=None) == shares(memory=UNKNOWN_MEMORY)
    with pytest.raises(UserError, match=f"at {UNKNOWN_MEMORY} GiB a worker"):
        shares(memory=None, workers=16)


def test_this_machine() -> None:
    machine = this_machine()
    assert machine.cores and machine.memory > 0
