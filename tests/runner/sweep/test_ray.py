"""``launcher=ray``: its settings and refusals."""

from __future__ import annotations

import socket

import pytest

from qexp.conf.errors import UserError
from qexp.conf.sweeps import RayConfig
from qexp.runner.sweep.ray_cluster import check_answers, check_room, connect
from qexp.runner.sweep.settings import compose_settings, gone_on
from qexp.runner.sweep.sizing import GIB

GPU_NODE = {"CPU": 4.0, "GPU": 2.0, "memory": 10.0 * GIB}
CPU_NODE = {"CPU": 3.0, "memory": 10.0 * GIB, "TPU": 8.0}


def test_settings() -> None:
    launcher = compose_settings(["launcher=ray", "launcher.gpus=0.5", "launcher.extra.TPU=2"]).launcher
    assert isinstance(launcher, RayConfig)
    assert (launcher.gpus, launcher.extra) == (0.5, {"TPU": 2.0})
    with pytest.raises(UserError, match=r"launcher.gpus.*a share of one GPU, or whole ones"):
        compose_settings(["launcher=ray", "launcher.gpus=1.5"])


def test_a_sweep_that_goes_on_by_another_launcher_forgets_the_settings_of_the_first() -> None:
    before = ["launcher=ray", "launcher.gpus=1", "sweep.max_crashes=2"]
    assert gone_on(before, ["launcher.gpus=2"]) == [*before, "launcher.gpus=2"]
    assert gone_on(before, ["launcher=local", "launcher.threads=1"]) == [
        "sweep.max_crashes=2",
        "launcher=local",
        "launcher.threads=1",
    ]


def test_without_ray_the_command_that_installs_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'qexp\[ray\]'"):
        connect(RayConfig("ray"))


@pytest.mark.parametrize(
    ("settings", "fit"),
    [
        ({}, 4),
        ({"cpus": 2}, 3),
        ({"gpus": 0.5}, 2),
        ({"gpus": 3}, 0),
        ({"memory": 1.0}, 7),
        ({"extra": {"TPU": 4.0}}, 2),
    ],
)
def test_a_worker_fits_on_one_node(settings: dict[str, object], fit: int) -> None:
    if fit:
        check_room(RayConfig("ray", workers=fit, **settings), [GPU_NODE, CPU_NODE])
    with pytest.raises(UserError, match=rf"7 CPU, 2 GPU, 20.0 GiB.* on 2 nodes, enough for {fit}"):
        check_room(RayConfig("ray", workers=fit + 1, **settings), [GPU_NODE, CPU_NODE])


def test_addresses_that_no_cluster_has_are_told_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(UserError, match="nothing answers at 127.0.0.1:.*refused"):
            check_answers(f"127.0.0.1:{free.getsockname()[1]}")
    with pytest.raises(UserError, match="write HOST:PORT of the cluster's head node, auto or local"):
        check_answers("ray://127.0.0.1:10001")
