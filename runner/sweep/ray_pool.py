"""The workers of ``launcher=ray``: child processes of actors, over the sweep's folder on the shared file system."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import replace
from typing import Any

from qexp.conf.errors import RunError, UserError
from qexp.conf.sweeps import RayConfig
from qexp.runner.sweep.folder import SweepFolder
from qexp.runner.sweep.local import environment, worker_command
from qexp.runner.sweep.pool import KILL, WorkerPool
from qexp.runner.sweep.ray_cluster import check_room, demand, nodes
from qexp.runner.sweep.sizing import Slot

SECONDS_BETWEEN_ASKING = 2.0
KILL_SECONDS = 5.0
"""A node that does not confirm by then is left to notice that its parent is gone."""


class WorkerActor:
    """What runs on a node: one worker as a child process, with the Python and the environment that the node has.

    The worker stops, with a checkpoint, when this process is gone: with the parent, or by whatever killed it.
    """

    def __init__(self, arguments: list[str], threads: int, output: str):
        with open(output, "ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, *arguments, "--parent", str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=environment(Slot(0, threads)),
                start_new_session=True,
            )

    def wait(self) -> int:
        return self._process.wait()

    def send_signal(self, number: int) -> None:
        self._process.send_signal(number)


class RemoteWorker:
    """A :class:`WorkerActor` as seen from here; it begins once the cluster has room for it."""

    def __init__(self, actor: Any):
        self._actor = actor
        self._begun, self._code = actor.__ray_ready__.remote(), actor.wait.remote()

    def poll(self) -> int | None:
        """Its exit code, or that of a killed process where the actor or its node is gone; None while it runs.

        Raises ``RunError`` where the node could not start it.
        """
        import ray

        if not _is_there(self._code):
            return None
        try:
            return int(ray.get(self._code))
        except ray.exceptions.RayActorError as error:
            if "its creation task" in (told := str(error)):
                raise RunError(f"a node could not start a worker: {told.strip().splitlines()[-1]}") from None
            return -KILL

    def has_begun(self) -> bool:
        return _is_there(self._begun)

    def send_signal(self, sig: int) -> None:
        """One that still waits for room is taken from the queue."""
        import ray

        if self.has_begun():
            self._actor.send_signal.remote(sig)
        else:
            ray.kill(self._actor)

    def wait(self) -> None:
        import ray

        ray.wait([self._code], timeout=KILL_SECONDS)


def _is_there(result: Any) -> bool:
    import ray

    return bool(ray.wait([result], timeout=0)[0])


class RayPool(WorkerPool[RemoteWorker]):
    """One actor for each slot."""

    def __init__(self, folder: SweepFolder, launch: int, config: RayConfig, slots: Sequence[Slot]):
        super().__init__(folder, launch, slots)
        self._config = config
        self._asked = 0.0
        self._output_of_ray = ExitStack()

    def start(self) -> None:
        """Ray prints what it notices of workers and nodes; a file takes it, and standard output stays qexp's own."""
        file = self._output_of_ray.enter_context((self._folder.path / "workers" / f"{self._launch}-ray.log").open("a"))
        self._output_of_ray.enter_context(redirect_stdout(file))
        super().start()

    def _spawn(self, slot: Slot) -> RemoteWorker:
        import ray

        need = demand(self._config)
        options = {"num_cpus": need.pop("CPU"), "num_gpus": need.pop("GPU", 0.0), "memory": need.pop("memory")}
        actor = ray.remote(WorkerActor).options(**options, resources=need, max_concurrency=4)
        command = worker_command(self._folder, self._launch, slot)
        return RemoteWorker(actor.remote(command[1:], slot.threads, str(self._output(slot).resolve())))

    def poll(self, news: bool) -> bool:
        """As for any worker. Those that wait for room in the cluster see neither a cancellation nor that no cell is
        left, so they are told. Raises ``RunError`` too where the nodes that are left have room for none."""
        if self._folder.cancelled() and not self._stopping:
            self.stop()
        alive = super().poll(news)
        if alive and not self._stopping and not any(worker.has_begun() for worker in self._running.values()):
            self._look_after_waiting()
        return alive

    def _look_after_waiting(self) -> None:
        if self._none_left:
            self.stop()
        elif time.monotonic() - self._asked >= SECONDS_BETWEEN_ASKING:
            self._asked = time.monotonic()
            self._check_nodes()

    def _check_nodes(self) -> None:
        try:
            check_room(replace(self._config, workers=1), nodes())
        except UserError as error:
            raise RunError(f"no node is left for a worker: {error}") from None

    def kill(self) -> None:
        """End every worker now, and the cluster where it was started for them."""
        import ray

        try:
            super().kill()
        finally:
            ray.shutdown()
            self._output_of_ray.close()
