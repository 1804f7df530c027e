"""The AVX2 product: bit for bit the int64 product, whatever the shape, the codes and the form of the packed weight."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qexp.kernels import native

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason=f"no native kernels: {native.unavailable()}")

FORMS = (0, 1, 2, 4)
"""The length of chains of 16-bit sums; 0 is the form that holds for any weight."""

SIGNED, UNSIGNED = torch.int8, torch.uint8


def codes(shape: tuple[int, ...], dtype: torch.dtype = SIGNED, seed: int = 0) -> Tensor:
    ends = torch.iinfo(dtype)
    return torch.randint(ends.min, ends.max + 1, shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def bell(shape: tuple[int, ...], std: float, seed: int = 0) -> Tensor:
    """Weights as networks have them: the narrower, the longer the chains that pay."""
    normal = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (normal * std).round().clamp(-128, 127).to(SIGNED)


def exact(a: Tensor, b: Tensor) -> Tensor:
    return (a.long() @ b.long().transpose(-1, -2)).int()


def form(packed: list[Tensor]) -> int:
    return int(packed[2][1])


def pack(b: Tensor, chain: int | None = None) -> list[Tensor]:
    packed: list[Tensor] = torch.ops.qexp.int8_pack(b, chain)
    return packed


def check(a: Tensor, b: Tensor) -> None:
    """The product of every form, of which the one that would be chosen is one."""
    want = exact(a, b)
    for chain in FORMS:
        assert torch.equal(torch.ops.qexp.int8_gemm(a, pack(b, chain)), want), f"chain {chain}"


@pytest.mark.parametrize("chain", FORMS)
@pytest.mark.parametrize("dtype", [SIGNED, UNSIGNED])
def test_every_tail_of_rows_columns_and_depth(chain: int, dtype: torch.dtype) -> None:
    for n, k in itertools.product((1, 7, 8, 9, 15, 16, 17, 33), (1, 3, 5, 15, 16, 17, 31, 63, 129)):
        a, b = codes((17, k), dtype, seed=k), bell((n, k), 30.0, seed=n)
        packed, want = pack(b, chain), exact(a, b)
        for m in range(1, 18):
            assert torch.equal(torch.ops.qexp.int8_gemm(a[:m], packed), want[:m]), (m, n, k)


@pytest.mark.parametrize("std, chain", [(90.0, 0), (28.0, 1), (15.0, 2), (1.5, 4)])
def test_the_narrower_the_weights_the_longer_the_chains(std: float, chain: int) -> None:
    assert form(pack(bell((64, 512), std))) == chain


@pytest.mark.parametrize("weight", [-128, -127, -1, 0, 1, 64, 65, 127])
@pytest.mark.parametrize("dtype, code", [(UNSIGNED, 255), (UNSIGNED, 0), (SIGNED, -128), (SIGNED, 127), (SIGNED, -1)])
def test_extremes_everywhere(weight: int, dtype: torch.dtype, code: int) -> None:
    check(torch.full((5, 77), code, dtype=dtype), torch.full((19, 77), weight, dtype=SIGNED))


@pytest.mark.parametrize("dtype", [SIGNED, UNSIGNED])
def test_every_pair_of_codes(dtype: torch.dtype) -> None:
    ends = torch.iinfo(dtype)
    a = torch.arange(ends.min, ends.max + 1).to(dtype)[:, None]
    check(a, torch.arange(-128, 128).to(SIGNED)[:, None])


@pytest.mark.parametrize("dtype, top", [(UNSIGNED, 255), (SIGNED, 127)])
def test_every_pair_of_neighbouring_weights_at_the_largest_code(dtype: torch.dtype, top: int) -> None:
    """Each of the 65,536 pairs in a column of its own, in each half of a group: the ones that overflow 16 bits, too."""
    values = torch.arange(-128, 128).to(SIGNED)
    pairs = torch.cartesian_prod(values, values)
    for place in (0, 2):
        b = torch.zeros((len(pairs), 16), dtype=SIGNED)
        b[:, place : place + 2] = pairs
        check(torch.full((3, 16), top, dtype=dtype), b)


@pytest.mark.parametrize("std", [1.0, 8.0])
@pytest.mark.parametrize("pattern", list(itertools.product((127, -128, 1, -1), repeat=4)))
def test_chains_of_offending_weights_among_small_ones(std: float, pattern: tuple[int, ...]) -> None:
    """Four weights of one 16-bit lane: a pair in one group and a pair in the next, of all signs and sizes."""
    b = bell((40, 256), std, seed=3)
    for column, group in ((0, 0), (7, 4), (8, 10), (21, 30), (39, 62)):
        b[column, 4 * group : 4 * group + 2] = torch.tensor(pattern[:2], dtype=SIGNED)
        b[column, 4 * group + 4 : 4 * group + 6] = torch.tensor(pattern[2:], dtype=SIGNED)
    check(torch.full((2, 256), 255, dtype=UNSIGNED), b)


@given(st.integers(1, 20), st.integers(1, 40), st.integers(1, 5000), st.sampled_from([0.5, 3.0, 12.0, 25.0, 200.0]))
def test_random_shapes(m: int, n: int, k: int, std: float) -> None:
    check(codes((m, k), UNSIGNED if k % 2 else SIGNED, seed=k), bell((n, k), std, seed=n))


@given(st.integers(0, 40), st.integers(0, 300), st.sampled_from([0.5, 3.0, 12.0, 25.0, 200.0]), st.integers(0, 99))
def test_packing_loses_nothing(n: int, k: int, std: float, seed: int) -> None:
    b = bell((n, k), std, seed)
    for chain in FORMS:
        packed = pack(b, chain)
        assert torch.equal(torch.ops.qexp.int8_unpack(packed), b)
        assert torch.equal(packed[1], b.sum(1, dtype=torch.int32))


def test_packing_takes_any_strides() -> None:
    b = codes((24, 40))
    assert all(torch.equal(x, y) for x, y in zip(pack(b.t()), pack(b.t().contiguous()), strict=True))


def test_depth_that_fills_int32() -> None:
    check(torch.full((1, 65793), 255, dtype=UNSIGNED), torch.full((1, 65793), -128, dtype=SIGNED))
    check(torch.full((1, 131071), -128, dtype=SIGNED), torch.full((1, 131071), -128, dtype=SIGNED))


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0, 0)])
def test_empty(shape: tuple[int, int, int]) -> None:
    m, n, k = shape
    check(codes((m, k)), codes((n, k)))


def test_threads_change_nothing() -> None:
    a, b = codes((130, 256), UNSIGNED), bell((200, 256), 20.0)
    packed, before = pack(b), torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(torch.ops.qexp.int8_gemm(a, packed))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, exact(a, b)) for result in results)


@pytest.mark.parametrize("dtype", [SIGNED, UNSIGNED])
@pytest.mark.parametrize("shape", [(1, 5, 7, 9), (6, 33, 18, 64), (3, 128, 32, 128), (0, 2, 2, 2), (2, 3, 0, 4)])
def test_batched(dtype: torch.dtype, shape: tuple[int, int, int, int]) -> None:
    batch, m, n, k = shape
    a, b = codes((batch, m, k), dtype), codes((batch, n, k), seed=1)
    assert torch.equal(torch.ops.qexp.int8_gemm_batched(a, b), exact(a, b))


def test_batched_takes_any_strides() -> None:
    a, b = codes((4, 9, 6)).transpose(1, 2), codes((4, 9, 11)).transpose(1, 2)
    assert torch.equal(torch.ops.qexp.int8_gemm_batched(a, b), exact(a, b))


def test_wrong_operands_are_named() -> None:
    packed = pack(codes((4, 8)))
    with pytest.raises(ValueError, match="a weight of depth 8"):
        torch.ops.qexp.int8_gemm(codes((2, 9)), packed)
    with pytest.raises(ValueError, match="uint8 or int8"):
        torch.ops.qexp.int8_gemm(torch.zeros(2, 8), packed)
    with pytest.raises(ValueError, match="int8 weight"):
        torch.ops.qexp.int8_pack(torch.zeros(2, 8))
