"""Floating-point number formats narrower than float32, simulated by rounding float32 numbers to them.

A format is only its set of numbers and what happens beyond them; how a number is rounded is an argument of the cast.
Rounding divides by the spacing at the number (a power of two, so exactly), rounds, and multiplies back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qexp.kernels import native
from qexp.kernels.quantize import at_least_float32

Specials = Literal["ieee", "fn", "fnuz"]
Rounding = Literal["nearest", "stochastic"]
EXPONENT_FIELD = 0x7F800000
"""The exponent bits of a float32; a number with all its other bits cleared is the power of two at or below it."""


@dataclass(frozen=True)
class Format:
    """One sign bit, ``exponent_bits`` and ``mantissa_bits``; ``specials`` says which codes are no numbers.

    ``ieee``: the top exponent is infinity and NaN. ``fn`` (finite): only the code of all ones is NaN. ``fnuz`` (finite,
    unsigned zero): NaN is the code of -0, and the bias is one more. Beyond ``largest``, with ``saturate``, numbers
    and infinities become ``largest``; otherwise infinity, or NaN where there is none. ``ValueError`` if float32 does
    not hold the numbers.
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    specials: Specials
    saturate: bool = True

    def __post_init__(self) -> None:
        if self.specials not in get_args(Specials):
            raise ValueError(f"unknown specials {self.specials!r} of a format: {', '.join(get_args(Specials))}")
        if self.exponent_bits < 2 or not 1 <= self.mantissa_bits <= 22:
            raise ValueError(f"a format needs 2 or more exponent and 1..22 mantissa bits, got {self}")
        if self.bias > 127 or self._top_exponent > 127:
            raise ValueError(f"float32 does not hold the numbers of {self}")

    @property
    def bits(self) -> int:
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def bias(self) -> int:
        """What is subtracted from the exponent field."""
        half: int = 2 ** (self.exponent_bits - 1)
        return half if self.specials == "fnuz" else half - 1

    @property
    def largest(self) -> float:
        """Largest finite number; for ``fn`` one step lower, since the code above is NaN."""
        steps_below_two = 2 if self.specials == "fn" else 1
        return (2.0 - steps_below_two * 2.0**-self.mantissa_bits) * 2.0**self._top_exponent

    @property
    def smallest_normal(self) -> float:
        return 2.0 ** (1 - self.bias)

    @property
    def smallest_subnormal(self) -> float:
        """Spacing of the numbers around zero."""
        return self.smallest_normal * 2.0**-self.mantissa_bits

    @property
    def _top_exponent(self) -> int:
        reserved = 1 if self.specials == "ieee" else 0
        top: int = 2**self.exponent_bits - 1
        return top - reserved - self.bias


FP16 = Format("fp16", 5, 10, "ieee", saturate=False)
BF16 = Format("bf16", 8, 7, "ieee", saturate=False)
E4M3FNUZ = Format("e4m3fnuz", 4, 3, "fnuz")
"""E4 of arXiv 2303.11257: up to 240."""
E5M2FNUZ = Format("e5m2fnuz", 5, 2, "fnuz")
"""E5 of arXiv 2303.11257: up to 57344."""
E4M3FN = Format("e4m3fn", 4, 3, "fn")
"""What an H100 multiplies: up to 448."""
E5M2 = Format("e5m2", 5, 2, "ieee")
"""What an H100 takes for gradients: up to 57344, with infinity."""

FORMATS = {f.name: f for f in (FP16, BF16, E4M3FNUZ, E5M2FNUZ, E4M3FN, E5M2)}

_TORCH_HALVES = {(5, 10, "ieee"): torch.float16, (8, 7, "ieee"): torch.bfloat16}
"""Formats whose conversion torch has vectorised; its casts to 8 bits are slower than the arithmetic here."""


@torch.no_grad()
def cast(x: Tensor, format: Format, rounding: Rounding = "nearest", generator: torch.Generator | None = None) -> Tensor:
    """x rounded to the numbers of ``format``, in x's shape and dtype; NaN stays NaN.

    ``nearest``: ties to even, bit for bit torch's own conversion wherever that does not overflow. ``stochastic``: up
    with probability (x - below) / (above - below), so unbiased; ``generator`` lies on x's device. Half precision is
    computed in float32 and float64 rounded to it first, as torch does. ``ValueError`` for another rounding.
    """
    if rounding not in get_args(Rounding):
        raise ValueError(f"unknown rounding {rounding!r} to {format.name}: {' or '.join(get_args(Rounding))}")
    values = x.to(torch.float32)
    if rounding == "nearest" and native.is_loaded() and values.is_cpu and _fits_one_pass(format):
        settings = (format.largest, format.smallest_normal, format.mantissa_bits, format.specials != "fnuz")
        one_pass: Tensor = torch.ops.qexp.round_to_format(values, *settings)
        return one_pass.to(x.dtype)
    clipped = values.clamp(-format.largest, format.largest) if format.saturate else values.clone()
    half = _TORCH_HALVES.get((format.exponent_bits, format.mantissa_bits, format.specials))
    if rounding == "nearest" and half is not None:
        return clipped.to(half).to(x.dtype)
    rounded = _round(clipped, format, rounding, generator)
    if not format.saturate:
        beyond = torch.copysign(torch.full_like(values, torch.inf if format.specials == "ieee" else torch.nan), values)
        rounded = torch.where((rounded.abs() > format.largest) | values.isinf(), beyond, rounded)
    return rounded.to(x.dtype)


def _fits_one_pass(format: Format) -> bool:
    """Whether the native operator rounds to it: infinities clip, and float32 has room for what it adds on the way."""
    return format.saturate and format.mantissa_bits < 22 and format._top_exponent + 25 - format.mantissa_bits <= 127


def _round(x: Tensor, format: Format, rounding: Rounding, generator: torch.Generator | None) -> Tensor:
    """float32 x (overwritten) at the nearer or a random neighbour in ``format``, whose exponents go on for ever.

    Only float32's subnormals, which no format but BF16 meets, depend on the processor not flushing them to zero.
    """
    spacing = (x.view(torch.int32) & EXPONENT_FIELD).view(torch.float32)
    spacing.clamp_min_(format.smallest_normal).mul_(2.0**-format.mantissa_bits)
    steps = x.div_(spacing)
    if rounding == "nearest":
        steps.round_()
    else:
        below = steps.floor()
        chance = torch.rand(x.shape, generator=generator, device=x.device)
        steps = below + (chance < steps - below)
    rounded = steps.mul_(spacing)
    return rounded.add_(0.0) if format.specials == "fnuz" else rounded  # -0 + 0 is +0, the only zero there


def cast_forward(
    x: Tensor, format: Format, rounding: Rounding = "nearest", generator: torch.Generator | None = None
) -> Tensor:
    """:func:`cast` whose backward is the identity (straight through): for the inputs of a product."""
    result: Tensor = _CastForward.apply(x, format, rounding, generator)  # type: ignore[no-untyped-call]
    return result


def cast_backward(
    x: Tensor, format: Format, rounding: Rounding = "nearest", generator: torch.Generator | None = None
) -> Tensor:
    """x itself, whose gradient is :func:`cast` on its way back: for the output of a product."""
    result: Tensor = _CastBackward.apply(x, format, rounding, generator)  # type: ignore[no-untyped-call]
    return result


class _CastForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, format: Format, rounding: Rounding, generator: torch.Generator | None = None
    ) -> Tensor:
        return cast(x, format, rounding, generator)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return gradient, None, None, None


class _CastBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, format: Format, rounding: Rounding, generator: torch.Generator | None = None
    ) -> Tensor:
        ctx.settings = (format, rounding, generator)
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return cast(gradient, *ctx.settings), None, None, None


@torch.no_grad()
def underflow_fraction(x: Tensor, format: Format) -> Tensor:
    """Share of x's non-zero elements that round to zero (0 if there are none): 0-dim float32."""
    magnitude = at_least_float32(x).abs()
    lost = (magnitude > 0) & (magnitude <= format.smallest_subnormal / 2)  # half way goes to even, which is zero
    return lost.sum() / (magnitude > 0).sum().clamp_min(1)


@torch.no_grad()
def overflow_fraction(x: Tensor, format: Format) -> Tensor:
    """Share of x's elements that round beyond the largest number or are not finite already: 0-dim float32."""
    finite = cast(at_least_float32(x), replace(format, saturate=False)).isfinite()
    return 1.0 - finite.sum() / max(x.numel(), 1) if x.numel() else torch.zeros((), device=x.device)


@torch.no_grad()
def signal_to_noise(
    x: Tensor, format: Format, rounding: Rounding = "nearest", generator: torch.Generator | None = None
) -> Tensor:
    """10 log10(sum x^2 / sum (x - cast(x))^2) in decibels: 0-dim float64, infinite for a cast without error."""
    values = x.to(torch.float32)
    error = cast(values, format, rounding, generator).double() - values.double()
    return 10.0 * torch.log10(values.double().square().sum() / error.square().sum())
