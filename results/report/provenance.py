"""Where a cell's figures come from, in words: its runs, what they ran on, and how their configuration is its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from qexp.conf.identity import VOLATILE_KEYS
from qexp.results.schema import Record
from qexp.results.select import labelled, text
from qexp.results.statistics import Summary
from qexp.results.table import Run, number

COMMIT_DIGITS = 10
SPARK_POINTS = 32
SPARK_WIDTH, SPARK_HEIGHT = 120.0, 24.0


@dataclass(frozen=True)
class Spark:
    """A curve of training as the points of an SVG polyline, and what it shows in words."""

    points: str
    words: str


@dataclass(frozen=True)
class RunLine:
    """One run of a cell: a line of the panel that the cell opens."""

    seed: str
    figure: str
    status: str
    record: str
    commit: str
    started: str
    took: str
    spark: Spark | None
    message: str = ""


class Setting(NamedTuple):
    """A key of the configuration and its value, as one would type them."""

    key: str
    value: str


def run_line(run: Run) -> RunLine:
    record, made = run.record, run.record.provenance
    git = made.get("git") or {}
    commit = str(git.get("commit", ""))[:COMMIT_DIGITS] or f"qexp {made.get('qexp', 'of unknown version')}"
    return RunLine(
        seed=str(record.config.get("seed", "")),
        figure="–" if run.value is None else number(Summary(run.value, None, 1)),
        status=record.status,
        record=record.cell_id,
        commit=commit + (", with uncommitted changes" if git.get("dirty") else ""),
        started=str(made.get("started", "")).partition("+")[0].replace("T", " "),
        took=took(made.get("wall_seconds")),
        spark=spark(record.training.get("curve") or ()),
        message=record.message,
    )


def took(seconds: float | None) -> str:
    """``71 s``, ``12 min``, ``3.4 h``."""
    if seconds is None:
        return "not known"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def spark(curve: Iterable[Mapping[str, Any]]) -> Spark | None:
    """The loss over the steps; None where fewer than two were logged."""
    logged = [(float(at["step"]), float(at["loss"])) for at in curve if _finite(at.get("step"), at.get("loss"))]
    if len(logged) < 2:
        return None
    every = math.ceil(len(logged) / SPARK_POINTS)
    kept = [*logged[:-1:every], logged[-1]]
    first, last = kept[0][0], kept[-1][0]
    low, high = min(loss for _, loss in kept), max(loss for _, loss in kept)
    points = " ".join(
        f"{SPARK_WIDTH * (step - first) / (last - first or 1):.0f},"
        f"{1 + (SPARK_HEIGHT - 2) * (high - loss) / (high - low or 1):.1f}"
        for step, loss in kept
    )
    return Spark(points, f"training loss from {logged[0][1]:.3g} to {logged[-1][1]:.3g} at step {last:g}")


def _finite(*values: Any) -> bool:
    return all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)


def facts(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """What the runs ran on and what they cost, each fact once; runs that differ are told apart by a slash."""
    made = [run.record.provenance for run in runs]
    found = {
        "processor": [_processor(one) for one in made],
        "GPU": [", ".join(one.get("gpu") or ()) for one in made],
        "threads": [str(one.get("threads", "")) for one in made],
        "memory at most": [_bytes(one.get("peak_memory_bytes")) for one in made],
        "GPU memory at most": [_bytes(one.get("peak_gpu_memory_bytes")) for one in made],
        "versions": [_versions(one) for one in made],
        "data": [str(one.get("data_fingerprint", "")) for one in made],
        "trained network": [str(one.get("training_id", "")) for one in made],
        "pictures beside the record": [", ".join(run.record.artifacts.values()) for run in runs],
        "phases": [_phases(run.record) for run in runs],
    }
    return [
        (name, joined) for name, values in found.items() if (joined := " / ".join(dict.fromkeys(filter(None, values))))
    ]


def _processor(made: Mapping[str, Any]) -> str:
    cpu = made.get("cpu") or {}
    isa = [name for name, has in (cpu.get("isa") or {}).items() if has]
    return ", ".join(filter(None, [cpu.get("model", ""), f"with {' '.join(isa)}" if isa else ""]))


def _bytes(size: float | None) -> str:
    return f"{size / 2**30:.2f} GiB" if size else ""


def _versions(made: Mapping[str, Any]) -> str:
    named = {"qexp": made.get("qexp"), "Python": made.get("python"), **(made.get("packages") or {})}
    return ", ".join(f"{name} {version}" for name, version in named.items() if version)


def _phases(record: Record) -> str:
    return ", ".join(f"{phase} {took(seconds)}" for phase, seconds in record.timings.items() if seconds >= 1)


def links(runs: Sequence[Run]) -> list[str]:
    """Addresses of the runs at Weights & Biases, where they were tracked online."""
    found = (run.record.provenance.get("wandb") for run in runs)
    return [url for url in dict.fromkeys(found) if isinstance(url, str) and url.startswith("https://")]


def settings(record: Record) -> list[Setting]:
    """The configuration, without its seed and what cannot change a figure."""
    flat = labelled(record.config)
    return [
        Setting(key, text(value))
        for key, value in flat.items()
        if key != "seed" and key.split(".")[0] not in VOLATILE_KEYS
    ]


def shared(configurations: Iterable[Sequence[Setting]]) -> frozenset[Setting]:
    """What all the configurations have in common."""
    sets = [frozenset(one) for one in configurations]
    return frozenset.intersection(*sets) if sets else frozenset()
