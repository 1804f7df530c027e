"""Where a figure comes from: the identity of a configuration, the facts of the machine, and what a run cost."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from qexp.conf.identity import (
    EVALUATION_KEYS,
    EVALUATION_SUBKEYS,
    LATER_SUBKEYS,
    QUANT_EVALUATION_SUBKEYS,
    VOLATILE_KEYS,
    VOLATILE_SUBKEYS,
)
from qexp.conf.schema import ExperimentConfig
from qexp.methods.registry import later_settings, quantizes_training, trained_with
from qexp.results.schema import RECORD_VERSION
from qexp.runner.pretraining import pretraining_run

PACKAGES = (
    *(
        "accelerate",
        "bitsandbytes",
        "datasets",
        "evaluate",
        "hydra-core",
        "numpy",
        "pillow",
        "safetensors",
        "scikit-learn",
    ),
    *("scipy", "tokenizers", "torch", "transformers", "wandb"),
)
"""Distributions whose version is kept with every record."""


def cell_id(cfg: ExperimentConfig) -> str:
    """Identity of one experiment: 16 hex digits over everything that may change a figure.

    Recipe versions are part of the configuration; the record version is added, since an older record cannot be read.
    """
    return _digest({"record": RECORD_VERSION, "config": _identity(cfg)})


def training_id(cfg: ExperimentConfig) -> str:
    """Identity of a trained model: like :func:`cell_id`, without the keys and methods that act only after training."""
    trained = replace(cfg, method=trained_with(cfg.method))
    config = _without(_identity(trained), EVALUATION_KEYS, EVALUATION_SUBKEYS)
    if quantizes_training(trained.method):
        config["quant"] = {k: v for k, v in _data(cfg.quant).items() if k not in QUANT_EVALUATION_SUBKEYS}
    return _digest({"training": config})


def trained_networks(cfg: ExperimentConfig) -> Path:
    """The folder of all trained networks, each in a folder that its training id names."""
    return Path(cfg.results_dir) / "trained"


def home_of(cfg: ExperimentConfig) -> Path:
    """The folder of the trained network."""
    return trained_networks(cfg) / training_id(cfg)


def partial_of(cfg: ExperimentConfig) -> Path:
    """The folder of its checkpoints while it is trained."""
    home = home_of(cfg)
    return home.with_name(f"{home.name}.partial")


def _identity(cfg: ExperimentConfig) -> dict[str, Any]:
    """What may change a figure. A key that came later is left out at the value that older records imply."""
    config = _without(_data(cfg), VOLATILE_KEYS, VOLATILE_SUBKEYS)
    config["method"] = [
        {"name": choice["name"], "settings": _without_implied(choice["settings"], later_settings(choice["name"]))}
        for choice in config["method"]
    ]
    for group, later in LATER_SUBKEYS.items():
        config[group] = _without_implied(config[group], later)
    if further := config.pop("ood"):
        config["ood"] = [_without_implied(task, LATER_SUBKEYS["task"]) for task in further]
    if config.pop("pretraining"):
        config["pretraining"] = training_id(pretraining_run(cfg))
    return config


def _data(value: Any) -> Any:
    """``dataclasses.asdict`` without its copies, which take most of the time of planning a thousand experiments."""
    if is_dataclass(value):
        return {name: _data(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {key: _data(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_data, value))
    return value


def _without_implied(values: dict[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in later or value != later[key]}


def _without(config: dict[str, Any], keys: tuple[str, ...], subkeys: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    kept = {key: value for key, value in config.items() if key not in keys}
    for group, dropped in subkeys.items():
        kept[group] = {key: value for key, value in kept[group].items() if key not in dropped}
    return kept


def _digest(value: Any) -> str:
    text = json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _canonical(value: Any) -> Any:
    """One spelling for equal values: tuples as lists, whole floats as integers (``0.0`` is ``0``)."""
    if isinstance(value, dict):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def collect(
    cfg: ExperimentConfig, data_fingerprint: str, ood_fingerprints: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Facts beside the configuration that a reader needs to judge or repeat a figure. No host, user or path names."""
    return {
        "qexp": importlib.metadata.version("qexp"),
        "git": git_state(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: version for name in PACKAGES if (version := package_version(name))},
        "cpu": {"model": cpu_model(), "cores": os.cpu_count(), "isa": isa()},
        "gpu": gpus(),
        "threads": _torch_threads(),
        "seed": cfg.seed,
        "calibration_seed": cfg.quant.calibration.seed,
        "data_fingerprint": data_fingerprint,
        **({"ood_fingerprints": dict(ood_fingerprints)} if ood_fingerprints else {}),
        "training_id": training_id(cfg),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def git_state() -> dict[str, Any] | None:
    """Commit of the qexp checkout and whether files differ from it; None for an installed package."""
    root = checkout()
    if root is None:
        return None
    try:
        return {"commit": _git(root, "rev-parse", "HEAD"), "dirty": bool(_git(root, "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def checkout() -> Path | None:
    """Root of the qexp checkout that this code runs from, None for an installed package."""
    import qexp

    root = Path(qexp.__file__).resolve().parents[2]
    return root if (root / ".dev" / "qexp").is_dir() and (root / ".git").exists() else None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()


def package_version(name: str) -> str | None:
    """Installed version of a distribution, None where it is absent."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_info(*keys: str) -> str:
    """First value of one of the given keys in the kernel's description of the processor; empty elsewhere than Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in pairs if key.strip() in keys), "")


def cpu_model() -> str:
    return _cpu_info("model name", "Model") or platform.processor() or platform.machine()


def isa() -> dict[str, bool]:
    """Instruction sets that decide how INT8 can be executed. Elsewhere than on Linux only what torch reports."""
    flags = set(_cpu_info("flags", "Features").split())
    if not flags:
        import torch

        flags = {torch.backends.cpu.get_cpu_capability().lower()}
    return {
        "avx2": "avx2" in flags,
        "avx_vnni": "avx_vnni" in flags,
        "avx512_vnni": "avx512_vnni" in flags,
        "amx": "amx_int8" in flags,
    }


def gpus() -> list[str]:
    """Names of the CUDA devices that torch sees."""
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _torch_threads() -> int:
    import torch

    return torch.get_num_threads()


class Stopwatch:
    """Context that measures wall time, CPU time of all threads [s] and peak memory [bytes] of what runs inside.

    Peak memory is the process's highest resident size inside the context where the kernel lets it be reset (Linux),
    else the highest so far. Stopwatches may be nested in one thread.
    """

    _running: list[Stopwatch] = []

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0
        self.peak_memory = self.peak_gpu_memory = 0

    def __enter__(self) -> Stopwatch:
        for outer in self._running:
            outer._note_peaks()
        self._running.append(self)
        _reset_peaks()
        self._started = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *exception: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self._started[0], time.process_time() - self._started[1]
        for watch in self._running:
            watch._note_peaks()
        self._running.remove(self)

    def _note_peaks(self) -> None:
        self.peak_memory = max(self.peak_memory, _peak_memory())
        self.peak_gpu_memory = max(self.peak_gpu_memory, _peak_gpu_memory())

    def facts(self) -> dict[str, float]:
        """The figures under the names that a record's provenance has."""
        figures = {"wall_seconds": round(self.wall, 3), "cpu_seconds": round(self.cpu, 3)}
        figures["peak_memory_bytes"] = self.peak_memory
        return figures | ({"peak_gpu_memory_bytes": self.peak_gpu_memory} if self.peak_gpu_memory else {})


def _reset_peaks() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # no such file or no right to it: the peak is then the process's highest so far
    if (torch := sys.modules.get("torch")) and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def _peak_memory() -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return _lifetime_peak_memory()


def _lifetime_peak_memory() -> int:
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _peak_gpu_memory() -> int:
    torch = sys.modules.get("torch")
    return int(torch.cuda.max_memory_allocated()) if torch and torch.cuda.is_initialized() else 0
