"""What a sweep's own settings must look like: how its cells are chosen, and where they run.

They change no figure and are no part of an experiment, so they are no part of its configuration either.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from qexp.conf.schema import STRICT, Positive


def _share_or_whole(gpus: float) -> float:
    if gpus > 1 and gpus % 1:
        raise ValueError("a share of one GPU, or whole ones")
    return gpus


@dataclass(frozen=True, config=STRICT)
class LauncherConfig:
    """Where workers run and what each of them may use. A worker runs one cell after another."""

    name: Literal["local"]
    workers: Positive | None = None
    """Null: as many as cores, memory, GPUs and cells allow."""
    threads: Positive | None = None
    """CPU threads of a worker; null shares the cores out."""
    memory: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = None
    """GiB that a worker needs; null takes what earlier records of its kind tell."""


@dataclass(frozen=True, config=STRICT)
class SlurmConfig:
    """An array job of ``workers`` tasks, and what each of them asks of the cluster."""

    name: Literal["slurm"]
    workers: Positive = 1
    partition: str | None = None
    time: Positive = 60
    """Minutes, after which a task checkpoints and is queued again."""
    cpus: Positive = 1
    gpus: Annotated[int, Field(ge=0)] = 0
    memory: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 4.0
    """GiB."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Further options of ``sbatch``."""


@dataclass(frozen=True, config=STRICT)
class RayConfig:
    """``workers`` actors, and what each of them asks of the cluster."""

    name: Literal["ray"]
    address: str | None = None
    """``HOST:PORT`` or ``auto`` of a cluster of which this machine is a node; ``local`` starts one of this machine
    alone, as null does unless there is RAY_ADDRESS."""
    workers: Positive = 1
    cpus: Positive = 1
    gpus: Annotated[float, Field(ge=0.0, allow_inf_nan=False), AfterValidator(_share_or_whole)] = 0.0
    """A share below 1 lets workers have a GPU together."""
    memory: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 4.0
    """GiB, which Ray reserves and does not enforce."""
    extra: dict[str, Annotated[float, Field(gt=0.0, allow_inf_nan=False)]] = Field(default_factory=dict)
    """Custom resources of the cluster."""


@dataclass(frozen=True, config=STRICT)
class SearchConfig:
    """Which cells a sweep has. All but ``trials`` and ``max_crashes`` are part of what sweep it is."""

    search: Literal["grid", "random", "optuna"] = "grid"
    """``grid``: every combination. ``random``: ``trials`` drawn ones. ``optuna``: ``trials`` that Optuna's TPE sampler
    proposes one after another, each from the figures of those before."""
    trials: Positive | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of what is drawn or proposed; the experiments' own is ``seed``."""
    setting: str | None = None
    """Whose primary metric is the objective (``float``, ``w8a8``, ``w8a8.integer``); null: the first quantized
    setting, or ``float`` without one. Settled while planning."""
    prune: bool = False
    """``optuna``: stop a cell whose figures during training lie below the median of the cells before."""
    max_crashes: Positive = 3
    """A cell in which so many processes died, in one launch of the sweep, has failed."""


AnyLauncher = LauncherConfig | SlurmConfig | RayConfig


@dataclass(frozen=True, config=STRICT)
class SweepConfig:
    launcher: AnyLauncher
    sweep: SearchConfig = Field(default_factory=SearchConfig)


LAUNCHERS: dict[str, type] = {"local": LauncherConfig, "slurm": SlurmConfig, "ray": RayConfig}
"""``launcher=NAME`` -> what its settings must fit."""
