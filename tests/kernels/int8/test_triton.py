"""The Triton back end: bit for bit in the interpreter, the right instructions for GPUs, and on a GPU where there is."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from qexp.kernels.int8 import triton as back_end
from qexp.kernels.int8.backends import find
from qexp.kernels.int8.selftest import self_test

HERE = Path(__file__).parent
CASES = re.findall(r"^    (\w+),$", (HERE / "interpreted.py").read_text().partition("CASES: ")[2], re.MULTILINE)
KERNELS = [f"{kernel} sm_{architecture}" for kernel in ("product", "quantize") for architecture in (80, 90)]
ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
WITH_TRITON = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="needs Triton: pip install 'qexp[triton]'"
)


def output_of(program: str, folder: Path, **environment: str) -> Any:
    """What a program beside this one prints, from a process of its own."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(folder), "CUDA_VISIBLE_DEVICES": "", **environment}
    command = [sys.executable, str(HERE / program)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    found: dict[str, str | None] = output_of("interpreted.py", tmp_path_factory.mktemp("triton"), TRITON_INTERPRET="1")
    return found


@pytest.fixture(scope="module")
def ptx(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    found: dict[str, str] = output_of("compiled.py", tmp_path_factory.mktemp("triton"), TRITON_INTERPRET="0")
    return found


@WITH_TRITON
@pytest.mark.parametrize("case", CASES)
def test_in_the_interpreter(case: str, interpreted: dict[str, str | None]) -> None:
    assert interpreted[case] is None, interpreted[case]


@WITH_TRITON
@pytest.mark.parametrize("kernel", KERNELS)
def test_compiled_arithmetic_rounds_each_operation(kernel: str, ptx: dict[str, str]) -> None:
    assert "div.rn.f32" in ptx[kernel] and "div.full" not in ptx[kernel] and "div.approx" not in ptx[kernel]
    assert "fma." not in ptx[kernel] and ".ftz" not in ptx[kernel]


@WITH_TRITON
@pytest.mark.parametrize("kernel", KERNELS[:2])
def test_compiled_product_multiplies_bytes_on_tensor_cores(kernel: str, ptx: dict[str, str]) -> None:
    assert re.search(r"mma[\w.]*\.s32\.s8\.s8", ptx[kernel])


def test_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(back_end, "unavailable_gpu", lambda: None)
    monkeypatch.setitem(sys.modules, "triton", None)
    assert "pip install 'qexp[triton]'" in str(find("triton").unavailable())
    monkeypatch.setitem(sys.modules, "triton", type("triton", (), {"__version__": "3.2.0"}))
    assert "Triton 3.2.0 is too old" in str(find("triton").unavailable())
    monkeypatch.setitem(sys.modules, "triton", type("triton", (), {"__version__": "3.10.0+git1"}))
    assert find("triton").unavailable() is None


def test_importing_the_back_ends_does_not_import_triton() -> None:
    program = "import sys, qexp.kernels.int8, qexp.kernels.int8.triton; assert 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


@ON_GPU
@WITH_TRITON
def test_exact_on_the_gpu() -> None:
    assert self_test(find("triton")) is None


@ON_GPU
@WITH_TRITON
def test_every_choice_of_blocks_is_exact_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from qexp.kernels.int8 import triton_kernels

    tuner = triton_kernels.product_kernel
    for blocks in triton_kernels.CONFIGS:
        monkeypatch.setattr(tuner, "configs", [blocks])
        wrong = self_test(find("triton"))
        assert wrong is None or "out of resource" in wrong, blocks
