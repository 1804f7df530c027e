"""Operator tiling: every code of every width is its tiles again, and unsafe splits are refused."""

from __future__ import annotations

import pytest
import torch

from qexp.kernels.fixed_point.mapping import largest_code
from qexp.kernels.fixed_point.tiling import check_split, high_range, safe_shifts, split_tiles

SPLITS = [(bits, shift) for bits in range(9, 16) for shift in safe_shifts(bits)] + [(16, 8)]


@pytest.mark.parametrize(("bits", "shift"), SPLITS)
def test_every_code_is_its_tiles_again(bits, shift):
    top = largest_code(bits)
    codes = torch.arange(-top, top + 1, dtype=torch.int16)
    high, low = split_tiles(codes, bits, shift)
    assert high.dtype == torch.int8 and low.dtype == (torch.uint8 if bits == 16 else torch.int8)
    assert torch.equal(2**shift * high.long() + low.long(), codes.long())
    if bits < 16:
        assert (int(high.min()), int(high.max())) == high_range(bits, shift)
        assert low.min() >= -(2 ** (shift - 1)) and low.max() <= 2 ** (shift - 1) - 1


def test_safe_splits_are_those_of_the_arithmetic():
    assert safe_shifts(12) == (5, 6, 7, 8) and safe_shifts(15) == (8,) and safe_shifts(16) == ()
    assert high_range(12, 4) == (-127, 128) or high_range(12, 4)[1] == 128


@pytest.mark.parametrize(("bits", "shift"), [(12, 4), (15, 7), (16, 7), (12, 9), (12, 0)])
def test_unsafe_splits_are_refused_with_the_safe_ones(bits, shift):
    with pytest.raises(ValueError, match=f"{bits}-bit codes cannot be split at {shift} into int8 tiles.*safe: "):
        check_split(bits, shift)
