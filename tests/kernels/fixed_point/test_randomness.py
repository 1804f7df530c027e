"""Random bits by seed and position: one and the same stream whoever asks, and nothing that a stream must not have."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qexp.kernels.fixed_point.randomness import GOLDEN, MASK, MULTIPLIERS, fresh_seed, uniform_bits


def one(position: int, seed: int) -> int:
    """The definition in Python's own integers."""
    h = (position * GOLDEN + seed) & MASK
    h ^= h >> 16
    h = (h * MULTIPLIERS[0]) & MASK
    h ^= h >> 15
    h = (h * MULTIPLIERS[1]) & MASK
    h ^= h >> 16
    return h >> 8


@given(st.integers(0, 2**32 + 1), st.integers(1, 50))
def test_is_its_definition(seed, count):
    assert uniform_bits(count, seed).tolist() == [one(i, seed) for i in range(count)]


def test_neighbouring_seeds_and_positions_are_uncorrelated():
    n = 1 << 14
    streams = torch.stack([uniform_bits(n, seed) for seed in (0, 1, 2, 2**31, 2**32 - 1)]).double()
    lagged = torch.stack([streams[0, :-1], streams[0, 1:]])
    for some in (streams, lagged):
        correlation = torch.corrcoef(some).fill_diagonal_(0.0)
        assert correlation.abs().max() < 5 / math.sqrt(n)


@pytest.mark.parametrize("bit", range(24))
def test_every_bit_is_set_half_of_the_time(bit):
    n = 1 << 14
    share = ((uniform_bits(n, 12345) >> bit) & 1).double().mean()
    assert abs(share - 0.5) < 5 * 0.5 / math.sqrt(n)


def test_seeds_come_from_torchs_generator():
    torch.manual_seed(3)
    seeds = [fresh_seed() for _ in range(4)]
    torch.manual_seed(3)
    assert [fresh_seed() for _ in range(4)] == seeds and len(set(seeds)) == 4
    assert all(0 <= seed < 2**32 for seed in seeds)
