"""Dynamic fixed point: the grid, both roundings, and that native and torch paths give the same bits."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qexp.kernels import native
from qexp.kernels.fixed_point.mapping import (
    NotFiniteError,
    from_fixed_point,
    largest_code,
    map_codes,
    step_exponent,
    to_fixed_point,
)
from qexp.kernels.fixed_point.randomness import uniform_bits

BITS = range(4, 17)
normal_floats = st.floats(-(2.0**100), 2.0**100, width=32).filter(lambda v: v == 0 or abs(v) > 1e-30)


@given(values=st.lists(normal_floats, min_size=1, max_size=20), bits=st.sampled_from(BITS))
def test_codes_fit_use_the_top_bit_and_lie_on_a_power_of_two(values, bits):
    x = torch.tensor(values)
    mapped = to_fixed_point(x, bits)
    codes = mapped.codes.int().abs()
    assert codes.max() <= 2 ** (bits - 1) - 1
    assert x.abs().max() == 0 or codes.max() >= 2 ** (bits - 2)
    assert math.frexp(mapped.step)[0] == 0.5
    error = (from_fixed_point(mapped).double() - x.double()).abs()
    clipped = codes == 2 ** (bits - 1) - 1
    assert (error <= torch.where(clipped, 1.0, 0.5) * mapped.step).all()


@given(values=st.lists(normal_floats, min_size=1, max_size=9), bits=st.sampled_from(BITS), shift=st.integers(-10, 10))
def test_a_power_of_two_moves_the_exponent_alone(values, bits, shift):
    x = torch.tensor(values)
    if not x.any():
        return
    one, other = to_fixed_point(x, bits), to_fixed_point(x * 2.0**shift, bits)
    assert torch.equal(one.codes, other.codes) and other.exponent == one.exponent + shift


@pytest.mark.parametrize("bits", BITS)
def test_every_code_is_mapped_to_itself(bits):
    top = largest_code(bits)
    codes = torch.arange(-top, top + 1)
    x = codes.float() * 2.0**-20
    for rounding in ("nearest", "stochastic"):
        mapped = to_fixed_point(x, bits, rounding, seed=5)
        assert mapped.exponent == -20 and torch.equal(mapped.codes.long(), codes)
        assert torch.equal(from_fixed_point(mapped), x)


def test_stochastic_rounding_is_unbiased_with_the_variance_of_its_law():
    n, step, value = 200_000, 0.25, 0.3
    x = torch.full((n,), value)
    drawn = map_codes(x, -2, 4, "stochastic", seed=11).double() * step
    fraction = value / step - math.floor(value / step)
    variance = step**2 * fraction * (1 - fraction)
    assert abs(drawn.mean() - value) < 4 * math.sqrt(variance / n)
    assert drawn.var() == pytest.approx(variance, rel=0.02)


@given(st.floats(-0.99, 0.99), st.integers(0, 2**32 - 1))
def test_stochastic_rounding_goes_to_a_neighbour_and_has_the_right_mean(value, seed):
    codes = map_codes(torch.full((4000,), value), -3, 4, "stochastic", seed).double()
    steps = torch.tensor(value, dtype=torch.float32).double() * 8
    low = math.floor(steps)
    assert ((codes == low) | (codes == low + 1) | (codes.abs() == 7)).all()
    if abs(steps) < 7:
        assert abs(codes.mean() - steps) < 5 * 0.5 / math.sqrt(4000)


def test_random_bits_depend_on_seed_and_position_alone():
    assert torch.equal(uniform_bits(100, 7)[:10], uniform_bits(10, 7))
    assert not torch.equal(uniform_bits(100, 7), uniform_bits(100, 8))
    drawn = uniform_bits(1 << 16, 3)
    assert 0 <= drawn.min() and drawn.max() < 1 << 24
    shares = torch.bincount(drawn >> 20, minlength=16).double() / (1 << 16)
    assert (shares - 1 / 16).abs().max() < 5 * math.sqrt(1 / 16 / (1 << 16))


def test_edges():
    assert step_exponent(0.0, 8) == -7 and not to_fixed_point(torch.zeros(3), 8).codes.any()
    assert step_exponent(1e-45, 8) == -126
    assert to_fixed_point(torch.empty(0, 4), 8).codes.shape == (0, 4)
    assert to_fixed_point(torch.tensor([0.9999]), 8).codes.item() == 127  # rounds to 128, which int8 has not
    assert to_fixed_point(torch.tensor([1.5], dtype=torch.float16), 9).codes.dtype == torch.int16
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(NotFiniteError):
            to_fixed_point(torch.tensor([1.0, value]), 8)
    with pytest.raises(ValueError, match="4..16 bits, got 3"):
        to_fixed_point(torch.ones(1), 3)
    with pytest.raises(ValueError, match="unknown rounding 'up'"):
        to_fixed_point(torch.ones(1), 8, "up")


@pytest.mark.parametrize("bits", [4, 8, 9, 16])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("limit", [math.inf, 1.0, 0.0])
def test_native_and_torch_give_the_same_bits(bits, rounding, limit, monkeypatch):
    if native.unavailable() is not None:
        pytest.skip("no native kernels here")
    generator = torch.Generator().manual_seed(bits)
    tensors = [torch.randn(shape, generator=generator) for shape in ((37, 53), (1, 1), (3, 40_001))]
    tensors += [tensors[0].t(), torch.tensor([[0.5, -0.5, 1.5, 2.5, -2.5, 1e-40, -1e-40, 0.0, -0.0]])]
    found = [map_codes(x, -3, bits, rounding, 9, limit) for x in tensors]
    monkeypatch.setattr(native, "is_loaded", lambda: False)
    for x, codes in zip(tensors, found, strict=True):
        assert torch.equal(codes, map_codes(x, -3, bits, rounding, 9, limit))
