"""The exact int8 product of every back end that this machine has, against int64."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qexp.kernels import reference
from qexp.kernels.int8 import PackedWeight, int8_matmul, pack_weight
from qexp.kernels.int8.backends import find

SIGNED, UNSIGNED = torch.int8, torch.uint8


def codes(dtype: torch.dtype, *shape: int, seed: int = 0) -> Tensor:
    info = torch.iinfo(dtype)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(info.min, info.max + 1, shape, generator=generator).to(dtype)


def every(dtype: torch.dtype) -> Tensor:
    return torch.arange(torch.iinfo(dtype).min, torch.iinfo(dtype).max + 1).to(dtype)


def assert_exact(a: Tensor, b: Tensor, backend: str) -> None:
    truth = reference.int8_matmul(a, b)
    sums = int8_matmul(a, b, backend)
    assert sums.dtype == torch.int32
    assert torch.equal(sums.long(), truth)
    if b.dtype == torch.int8 and b.dim() == 2:
        packed = pack_weight(b, backend)
        assert torch.equal(packed.unpack(), b)
        assert torch.equal(int8_matmul(a, packed).long(), truth)


@pytest.mark.parametrize("left", [SIGNED, UNSIGNED])
@pytest.mark.parametrize("right", [SIGNED, UNSIGNED])
def test_every_pair_of_codes(backend: str, left: torch.dtype, right: torch.dtype) -> None:
    assert_exact(every(left)[:, None], every(right)[:, None], backend)


def test_every_pair_of_neighbouring_weights_under_the_largest_codes(backend: str) -> None:
    """What an int16 sum of two neighbours could get wrong: all 65,536 pairs, at each place of four along K."""
    pairs = torch.cartesian_prod(every(SIGNED), every(SIGNED))
    places = [torch.nn.functional.pad(pairs, (first, 2 - first), value=127) for first in range(3)]
    largest = torch.tensor([[255] * 4, [255, 255, 0, 0], [0, 255, 255, 0], [128, 254, 253, 255]], dtype=UNSIGNED)
    for b in places:
        packed = pack_weight(b, backend)
        assert torch.equal(int8_matmul(largest, packed).long(), reference.int8_matmul(largest, b))
        lowest = (largest ^ 128).view(SIGNED)
        assert torch.equal(int8_matmul(lowest, packed).long(), reference.int8_matmul(lowest, b))


@pytest.mark.parametrize("k", [1, 2, 3, 4, 31, 64, 257, 1028, 5000])
def test_extremes(backend: str, k: int) -> None:
    rows = {value: torch.full((3, k), value, dtype=SIGNED) for value in (-128, 127)}
    most = torch.full((3, k), 255, dtype=UNSIGNED)
    for a, b in itertools.product([*rows.values(), most], rows.values()):
        assert_exact(a, b, backend)


SIZES = st.integers(1, 16)


@settings(max_examples=40)
@given(m=SIZES, n=SIZES, k=st.integers(1, 5000), left=st.sampled_from([SIGNED, UNSIGNED]), seed=st.integers(0, 2**20))
def test_random_shapes(backend: str, m: int, n: int, k: int, left: torch.dtype, seed: int) -> None:
    assert_exact(codes(left, m, k, seed=seed), codes(SIGNED, n, k, seed=seed + 1), backend)


@settings(max_examples=15)
@given(m=SIZES, n=SIZES, k=st.integers(1, 200), seed=st.integers(0, 2**20))
@pytest.mark.parametrize("right", [SIGNED, UNSIGNED])
def test_random_batches(backend: str, right: torch.dtype, m: int, n: int, k: int, seed: int) -> None:
    assert_exact(codes(UNSIGNED, 2, 3, m, k, seed=seed), codes(right, 2, 3, n, k, seed=seed + 1), backend)


def test_weights_of_a_pretrained_kind(backend: str) -> None:
    """Mostly small codes with a few far ones, which is what tiles and packings are made for."""
    weight = torch.randn(70, 3000, generator=torch.Generator().manual_seed(0)) * 12
    weight[3, 5], weight[41, 2999], weight[41, 2998] = 127, -128, -128
    assert_exact(codes(UNSIGNED, 9, 3000), weight.round().clamp(-128, 127).to(SIGNED), backend)


@pytest.mark.parametrize(("m", "k", "n"), [(0, 5, 4), (4, 0, 3), (4, 5, 0), (0, 0, 0)])
def test_empty_operands_give_zeros_of_the_right_shape(backend: str, m: int, k: int, n: int) -> None:
    assert_exact(codes(UNSIGNED, m, k), codes(SIGNED, n, k), backend)
    assert_exact(codes(SIGNED, 2, m, k), codes(SIGNED, 2, n, k), backend)


def test_any_strides(backend: str) -> None:
    a, b = codes(UNSIGNED, 20, 14, 3), codes(SIGNED, 40, 9)
    assert_exact(a[::2, :, 1], b.t()[:, ::2].t()[:, :7].repeat(1, 2)[::3], backend)
    assert_exact(codes(SIGNED, 30, 8).t()[:, 1::2], codes(SIGNED, 30, 6).t()[:, 1::2], backend)
    assert_exact(codes(UNSIGNED, 65)[1:].view(4, 16), codes(SIGNED, 81)[1:].view(5, 16), backend)  # misaligned
    row = codes(UNSIGNED, 1, 40)
    for strides in ((0, 1), (1, 1), (7, 1)):  # of a dimension of size 1, where every stride means the same
        assert_exact(row.as_strided((1, 40), strides), codes(SIGNED, 9, 40), backend)
        assert_exact(row, codes(SIGNED, 1, 40).as_strided((1, 40), strides), backend)
    values = codes(UNSIGNED, 2, 12, 5)
    assert_exact(codes(UNSIGNED, 2, 7, 12), values.transpose(-1, -2), backend)
    assert_exact(codes(UNSIGNED, 2, 3, 7, 12), codes(SIGNED, 5, 12), backend)


def test_thread_count_changes_nothing(backend: str) -> None:
    a, packed = codes(UNSIGNED, 65, 700), pack_weight(codes(SIGNED, 130, 700), backend)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(int8_matmul(a, packed))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize(
    ("left", "right", "bound"),
    [(UNSIGNED, SIGNED, 65_793), (SIGNED, SIGNED, 131_071), (UNSIGNED, UNSIGNED, 33_025), (SIGNED, UNSIGNED, 65_793)],
)
def test_k_up_to_the_bound_is_exact_and_beyond_it_an_error(left: torch.dtype, right: torch.dtype, bound: int) -> None:
    largest = {SIGNED: -128, UNSIGNED: 255}
    a = torch.full((1, bound + 1), largest[left], dtype=left)
    b = torch.full((1, bound + 1), largest[right], dtype=right)
    truth = bound * largest[left] * largest[right]
    assert abs(truth) < 2**31
    assert int8_matmul(a[:, 1:], b[:, 1:]).item() == truth
    with pytest.raises(ValueError, match=f"K = {bound + 1} is too long .* at most {bound}"):
        int8_matmul(a, b)


def test_k_of_a_packed_weight_is_checked_too() -> None:
    packed = pack_weight(torch.ones(1, 65_794, dtype=SIGNED))
    assert int8_matmul(torch.ones(1, 65_794, dtype=SIGNED), packed).item() == 65_794
    with pytest.raises(ValueError, match="at most 65793"):
        int8_matmul(torch.ones(1, 65_794, dtype=UNSIGNED), packed)
    with pytest.raises(ValueError, match="at most 131071"):
        pack_weight(torch.ones(1, 131_072, dtype=SIGNED))


def test_wrong_operands_are_named() -> None:
    a, b = codes(UNSIGNED, 3, 4), codes(SIGNED, 5, 4)
    with pytest.raises(TypeError, match="a must hold uint8 or int8 codes, not torch.float32"):
        int8_matmul(a.float(), b)
    with pytest.raises(TypeError, match="b must hold uint8 or int8 codes, not torch.int32"):
        int8_matmul(a, b.int())
    with pytest.raises(TypeError, match="a weight to pack is int8, not torch.uint8"):
        pack_weight(a)
    with pytest.raises(ValueError, match="the last dimensions must agree: 4 and 3"):
        int8_matmul(a, b[:, :3])
    with pytest.raises(ValueError, match="must be a matrix"):
        int8_matmul(a[0], b)
    with pytest.raises(ValueError, match=r"\[N, K\]"):
        pack_weight(b[None])
    with pytest.raises(ValueError, match="equal leading dimensions"):
        int8_matmul(codes(UNSIGNED, 2, 3, 4), codes(SIGNED, 3, 5, 4))
    with pytest.raises(ValueError, match="packed for 'reference', not for 'tiled'"):
        int8_matmul(a, pack_weight(b, "reference"), "tiled")


def test_a_packed_weight_says_what_it_holds(backend: str) -> None:
    b = codes(SIGNED, 33, 65)
    packed = pack_weight(b, backend)
    assert isinstance(packed, PackedWeight)
    assert (packed.backend, packed.rows, packed.depth) == (backend, 33, 65)
    assert torch.equal(packed.column_sums, b.sum(1, dtype=torch.int32))
    assert b.numel() <= packed.nbytes - 4 * 33
    assert find(backend).products
