"""Which back end is used: only one that the self-test found exact, and a saturating one is always found out."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from qexp.kernels.int8 import backends, int8_matmul, select, self_test, set_default, use
from qexp.kernels.int8.backends import Backend, BackendReport, LinearSpec, PackedWeight, examine_one, find
from qexp.kernels.int8.composition import composed_linear
from qexp.kernels.int8.reference import ReferenceBackend


class Saturating(ReferenceBackend):
    """Adds neighbouring products in int16 that stops at its ends, as ``vpmaddubsw`` does."""

    name = "saturating"

    def matmul(self, a: Tensor, weight: PackedWeight) -> Tensor:
        # A signed operand is shifted to unsigned first, as vendors do it.
        unsigned = a.int() if a.dtype == torch.uint8 else a.int() + 128
        products = unsigned[:, None] * weight.tensors[0].int()
        padded = torch.nn.functional.pad(products, (0, products.shape[-1] % 2))
        sums = padded.unflatten(-1, (-1, 2)).sum(-1).clamp(-(2**15), 2**15 - 1).sum(-1).int()
        return sums if a.dtype == torch.uint8 else sums - 128 * weight.column_sums

    def batched_matmul(self, a: Tensor, b: Tensor) -> Tensor:
        return Backend.batched_matmul(self, a, b)


class SaturatingBatches(ReferenceBackend):
    def batched_matmul(self, a: Tensor, b: Tensor) -> Tensor:
        return Saturating().batched_matmul(a, b)


class LossyPacking(ReferenceBackend):
    """Halves the weight to be safe, as some vendors do, and doubles the result."""

    def pack(self, b: Tensor) -> tuple[Tensor, ...]:
        return (b // 2 * 2,)


class CarelessLayer(ReferenceBackend):
    """Rescales by a product that was rounded in another order."""

    def linear(self, x: Tensor, spec: LinearSpec) -> Tensor:
        return composed_linear(self, x, spec) * (1 + 2**-23)


class Broken(ReferenceBackend):
    def matmul(self, a: Tensor, weight: PackedWeight) -> Tensor:
        raise RuntimeError("could not create a primitive\nmore lines")


def test_the_self_test_finds_what_is_wrong() -> None:
    assert self_test(ReferenceBackend()) is None
    assert "wrong sums: " in str(self_test(Saturating()))
    assert "wrong sums in a batch: " in str(self_test(SaturatingBatches()))
    assert "the packed weight is not the weight" in str(self_test(LossyPacking()))
    assert "the fused layer differs" in str(self_test(CarelessLayer()))
    assert self_test(Broken()) == "failed: could not create a primitive"


@pytest.mark.parametrize("first", [(127, 127), (-128, -128), (255, 127), (255, -128)])
def test_each_extreme_alone_would_show_saturation(first: tuple[int, int]) -> None:
    left, right = first
    a = torch.full((1, 2), left, dtype=torch.uint8 if left > 127 else torch.int8)
    b = torch.full((1, 2), right, dtype=torch.int8)
    sums = Saturating().matmul(a, backends.pack_with(Saturating(), b))
    assert sums.item() != 2 * left * right or left == -128  # 0 * 0 once shifted: exact by luck


@pytest.fixture
def with_saturating(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A registry whose fastest back end saturates."""
    monkeypatch.setattr(backends, "_CLASSES", {"saturating": f"{__name__}:Saturating", **backends._CLASSES})
    fake, found = Saturating(), backends.find
    monkeypatch.setattr(backends, "find", lambda name: fake if name == "saturating" else found(name))
    for cached in (backends.examine_one, backends._fastest):
        cached.cache_clear()
    yield
    for cached in (backends.examine_one, backends._fastest):
        cached.cache_clear()


def test_auto_never_takes_a_saturating_back_end(with_saturating: None) -> None:
    assert select().name != "saturating"
    assert examine_one(select().name).usable
    report = examine_one("saturating")
    assert report.available and not report.exact and not report.usable
    with pytest.raises(ValueError, match="int8 back end 'saturating' is not exact here: wrong sums"):
        select("saturating")


def test_examine_reports_every_back_end() -> None:
    reports = {report.name: report for report in backends.examine()}
    assert list(reports) == list(backends.NAMES[1:])
    assert reports["reference"] == BackendReport("reference", "cpu", True, True, "int64", None)
    for report in reports.values():
        assert report.usable == (report.reason is None)
        assert report.usable == (report.isa is not None and report.exact)


def test_the_default_is_what_auto_means() -> None:
    fastest = select().name
    with use("reference"):
        assert select().name == "reference"
        with use("auto"):
            assert select().name == fastest
        assert select().name == "reference"
    assert select().name == fastest
    set_default("reference")
    try:
        assert select("auto").name == "reference"
    finally:
        set_default("auto")


def test_what_cannot_be_used_is_said() -> None:
    for name, act in [("avx", select), ("AVX2", set_default), ("", find)]:
        with pytest.raises(ValueError, match=f"unknown int8 back end '{name}': auto, "):
            act(name)
    with pytest.raises(ValueError, match="'reference' works on cpu tensors, these are on cuda"):
        select("reference", "cuda")
    with pytest.raises(ValueError, match="no exact int8 back end for xpu tensors"):
        select("auto", "xpu")
    unusable = next((report for report in backends.examine() if not report.usable), None)
    if unusable is not None:
        with pytest.raises(ValueError, match=f"int8 back end '{unusable.name}' (cannot be used|is not exact) here: "):
            int8_matmul(torch.ones(1, 1, dtype=torch.int8), torch.ones(1, 1, dtype=torch.int8), unusable.name)


PROGRAM = """
import torch
from qexp.kernels.int8 import examine, int8_matmul, select
a = torch.full((9, 333), 255, dtype=torch.uint8)
b = torch.where(torch.arange(333) // 2 % 2 == 0, 127, -128).to(torch.int8).expand(17, 333)
truth = (a.long() @ b.long().T).int()
assert torch.equal(int8_matmul(a, b), truth), select().name
for report in examine():
    assert not report.usable or report.device != "cpu" or torch.equal(int8_matmul(a, b, report.name), truth), report
print(select().name)
"""


def run_limited(settings: Sequence[tuple[str, str]]) -> str:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ, **dict(settings)}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_on_a_processor_held_to_avx2_what_is_selected_is_exact() -> None:
    """There the vendor's products saturate, whatever this machine is."""
    limits = [("ONEDNN_MAX_CPU_ISA", "AVX2"), ("ATEN_CPU_CAPABILITY", "avx2"), ("QEXP_NATIVE", "0")]
    assert run_limited(limits) in ("tiled", "reference", "vnni")
