"""The Ray cluster of ``launcher=ray``: one that runs, or one of this machine that ends with the sweep."""

from __future__ import annotations

import importlib.util
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence

from qexp.conf.errors import UserError
from qexp.conf.sweeps import RayConfig
from qexp.runner.sweep.sizing import GIB

CONNECT_SECONDS, ANSWER_SECONDS = 3.0, 20.0
INSTALL = "pip install 'qexp[ray]'"
OBJECT_STORE = 80 * 2**20
"""Bytes, near Ray's least: nothing but exit codes goes through it."""
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run` Ray would upload the working directory
}
LOCAL = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # no other machines: it listens on 127.0.0.1 only, on any system
    "RAY_AUTH_MODE": "token",
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_kill_child_processes_on_worker_exit": "0",  # a worker whose actor is gone checkpoints before it ends
}
"""Settings that a cluster of this machine takes from the environment in which it starts."""


def connect(config: RayConfig) -> None:
    """Connect this process to the cluster. Raises ``UserError`` where there is none, or it has too little."""
    if importlib.util.find_spec("ray") is None:
        raise UserError(f"launcher=ray needs Ray: {INSTALL}")
    os.environ.update(QUIET)
    address = config.address or os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        os.environ.update({**LOCAL, "RAY_AUTH_TOKEN": secrets.token_hex(32)})
    else:
        check_answers(address)
    _init(address)
    check_room(config, nodes())


def _init(address: str) -> None:
    import ray

    own = {"include_dashboard": False, "object_store_memory": OBJECT_STORE} if address == "local" else {}
    try:
        ray.init(address, log_to_driver=False, logging_level="CRITICAL", **own)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise UserError(f"launcher=ray: no cluster at {address}: {_first_line(str(error))}") from None


def nodes() -> list[dict[str, float]]:
    """What each node that lives has, used or not, by Ray's names."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def check_answers(address: str) -> None:
    """Whether a cluster answers at HOST:PORT or ``auto``, asked in a process of its own that can be given up: Ray
    itself goes on trying for minutes. Raises ``UserError``."""
    if address != "auto":
        _check_port(address)
    command = [sys.executable, "-m", "ray.scripts.scripts", "status", "--address", address]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        raise UserError(f"launcher=ray: no Ray cluster answers at {address} in {ANSWER_SECONDS:.0f} s") from None
    if asked.returncode:
        told = (asked.stderr.strip().splitlines() or ["`ray status` failed"])[-1]
        raise UserError(f"launcher=ray: no cluster at {address}: {told.partition('Error: ')[2] or told}")


def _check_port(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise UserError(f"launcher.address={address}: write HOST:PORT of the cluster's head node, auto or local")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"launcher=ray: nothing answers at {address}: {error}") from None


def check_room(config: RayConfig, there: Sequence[Mapping[str, float]]) -> None:
    """Raises ``UserError`` where the nodes ``there``, each with what it has, could not run all workers at once."""
    need = demand(config)
    fit = sum(int(min(node.get(name, 0.0) / amount for name, amount in need.items())) for node in there)
    if config.workers > fit:
        total = {name: sum(node.get(name, 0.0) for node in there) for name in {"CPU": 0.0, "GPU": 0.0} | need}
        raise UserError(
            f"launcher.workers={config.workers}, each with {_told(need)}: the cluster has {_told(total)} on "
            f"{len(there)} node{'' if len(there) == 1 else 's'}, enough for {fit}"
        )


def demand(config: RayConfig) -> dict[str, float]:
    """What a worker asks for, by Ray's names; memory in bytes."""
    gpus = {"GPU": config.gpus} if config.gpus else {}
    return {"CPU": float(config.cpus), **gpus, "memory": config.memory * GIB, **config.extra}


def _told(resources: Mapping[str, float]) -> str:
    """``2 CPU, 0 GPU, 19.8 GiB``."""
    return ", ".join(
        f"{amount / GIB:.1f} GiB" if name == "memory" else f"{amount:g} {name}" for name, amount in resources.items()
    )


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[0]
