"""Float tensors as dynamic fixed point and back (arXiv 2207.08822 and 2312.09211: a shared exponent a tensor)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from qexp.kernels import native
from qexp.kernels.fixed_point.randomness import UNIFORM_BITS, uniform_bits
from qexp.kernels.quantize import at_least_float32

Rounding = Literal["nearest", "stochastic"]
MIN_BITS, MAX_BITS = 4, 16
SMALLEST_EXPONENT = -126
"""Of a step: a normal float32, whose inverse is one too. Tensors that would need a smaller step get this one."""


class NotFiniteError(ValueError):
    """NaN or infinity in a tensor that is to be mapped: no exponent holds it."""


@dataclass(frozen=True)
class FixedPoint:
    """A tensor as ``codes * 2**exponent``: int8 codes up to 8 bits, int16 beyond, |code| <= 2^(bits-1) - 1."""

    codes: Tensor
    exponent: int
    bits: int

    @property
    def step(self) -> float:
        """Distance between neighbouring numbers, a power of two."""
        return math.ldexp(1.0, self.exponent)


def largest_code(bits: int) -> int:
    """2^(bits-1) - 1. ``ValueError`` unless bits are 4..16."""
    if not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(f"dynamic fixed point takes {MIN_BITS}..{MAX_BITS} bits, got {bits}")
    code: int = 2 ** (bits - 1) - 1
    return code


def step_exponent(largest: float, bits: int) -> int:
    """e_max - (bits - 1), where 2^(e_max - 1) <= largest < 2^e_max is the exponent that all elements share.

    Nothing but zeros: e_max = 0. At least -126. ``NotFiniteError`` for NaN or infinity.
    """
    largest_code(bits)
    if not math.isfinite(largest):
        raise NotFiniteError("NaN or infinity in the input")
    return max(math.frexp(largest)[1] - (bits - 1), SMALLEST_EXPONENT)


def to_fixed_point(x: Tensor, bits: int, rounding: Rounding = "nearest", seed: int = 0) -> FixedPoint:
    """x (any shape, floating point) in ``bits`` bits: ``codes = clamp(round(x / step))``, step = 2^step_exponent.

    ``nearest``: ties to even, error at most step / 2 but for the clipped top code. ``stochastic``: the neighbour above
    with probability equal to the distance from the one below, so unbiased, drawn from ``seed`` and the position alone.
    Non-zero tensors have at least one |code| >= 2^(bits-2), except those too small for float32's normal numbers.
    ``ValueError`` for other bits or rounding, ``NotFiniteError`` for NaN or infinity.
    """
    values = at_least_float32(x).float()
    exponent = step_exponent(magnitude(values), bits)
    return FixedPoint(map_codes(values, exponent, bits, rounding, seed), exponent, bits)


def from_fixed_point(mapped: FixedPoint) -> Tensor:
    """``codes * step`` as float32, exact while that is a normal number."""
    return torch.ldexp(mapped.codes.double(), torch.tensor(mapped.exponent)).float()


def magnitude(x: Tensor) -> float:
    """Largest |x| of float32 x, NaN where there is one, 0 for no elements."""
    if not x.numel():
        return 0.0
    if native.is_loaded() and x.is_cpu:
        return float(torch.ops.qexp.fixed_point_magnitude(x))
    low, high = torch.aminmax(x)
    return float(torch.maximum(-low, high))


def map_codes(
    x: Tensor,
    exponent: int,
    bits: int,
    rounding: Rounding = "nearest",
    seed: int = 0,
    limit: float = math.inf,
    zeroed: Tensor | None = None,
) -> Tensor:
    """Codes of float32 x on the step 2^exponent: int8, or int16 from 9 bits.

    Elements with |x| > ``limit`` become 0, and all in the columns ``zeroed`` (int64) of a matrix x.
    """
    if rounding not in get_args(Rounding):
        raise ValueError(f"unknown rounding {rounding!r}: {' or '.join(get_args(Rounding))}")
    top, is_random = largest_code(bits), rounding == "stochastic"
    if native.is_loaded() and x.is_cpu:
        codes: Tensor = torch.ops.qexp.fixed_point_map(x, exponent, top, limit, seed if is_random else None, zeroed)
        return codes
    steps = x * math.ldexp(1.0, -exponent)
    steps = _stochastic(steps, seed) if is_random else steps.round_()
    steps.clamp_(-top, top)
    if math.isfinite(limit):
        steps.masked_fill_(x.abs() > limit, 0.0)
    if zeroed is not None:
        steps.index_fill_(1, zeroed, 0.0)
    return steps.to(torch.int8 if top <= 127 else torch.int16)


def _stochastic(steps: Tensor, seed: int) -> Tensor:
    below = steps.floor()
    chance = uniform_bits(steps.numel(), seed, steps.device).reshape(steps.shape)
    return below.add_((chance < (steps - below) * 2**UNIFORM_BITS).to(steps.dtype))
