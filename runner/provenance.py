"""Where a figure comes from: code, versions, and the facts of the machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from qexp.conf.schema import ExperimentConfig
from qexp.runner.identity import training_id

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
