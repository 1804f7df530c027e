"""``torch._int_mm`` under the rules of its CUDA form: what is padded, and that padding changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qexp.kernels.int8.backends import find, pack_with, select
from qexp.kernels.int8.cuda import CudaBackend, signed_codes
from qexp.kernels.int8.selftest import self_test

SHAPES = [(1, 1, 1), (3, 5, 7), (16, 8, 8), (17, 16, 24), (33, 70, 41), (40, 128, 64)]


def strict_int_mm(a: Tensor, b: Tensor) -> Tensor:
    """What CUDA's ``torch._int_mm`` takes, multiplied in int64."""
    assert a.dtype == b.dtype == torch.int8
    assert a.shape[0] > 16 and a.shape[1] % 8 == 0 and b.shape[1] % 8 == 0
    assert a.is_contiguous() and b.t().is_contiguous() and not (a.data_ptr() % 16 or b.data_ptr() % 16)
    return (a.long() @ b.long()).to(torch.int32)


def codes(dtype: torch.dtype, *shape: int) -> Tensor:
    ends = torch.iinfo(dtype)
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(ends.min, ends.max + 1, shape, dtype=dtype, generator=generator)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_shape_is_padded_to_what_the_product_takes(
    shape: tuple[int, int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "_int_mm", strict_int_mm)
    (m, k, n), backend = shape, CudaBackend()
    a, b = codes(dtype, 2, m, k), codes(torch.int8, 2, n, k)
    truth = (a.long() @ b.long().transpose(1, 2)).to(torch.int32)
    packed = pack_with(backend, b[0])
    assert torch.equal(packed.unpack(), b[0])
    assert torch.equal(backend.matmul(a[0], packed), truth[0])
    assert torch.equal(backend.batched_matmul(a, b), truth)


def test_passes_the_self_test_under_those_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "_int_mm", strict_int_mm)
    backend = CudaBackend()
    backend.device = "cpu"
    assert self_test(backend) is None


def test_misaligned_codes_are_copied() -> None:
    a = torch.arange(64, dtype=torch.int8)[1:33].reshape(2, 16)
    assert a.data_ptr() % 16
    signed = signed_codes(a, 16)
    assert torch.equal(signed, a) and signed.data_ptr() % 16 == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("name", ["cuda", "triton"])
def test_without_a_gpu_it_says_so(name: str) -> None:
    with pytest.raises(ValueError, match="no CUDA device"):
        select(name, "cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_exact_on_the_gpu() -> None:
    assert self_test(find("cuda")) is None
