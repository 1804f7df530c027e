"""Uniform quantization: a float tensor onto an integer grid and back.

The arithmetic is fixed here once, because integer execution must later reproduce it bit for bit: ``x / scale`` is a
true division in float32 (never a product with ``1 / scale``, which rounds twice), rounding is half to even, and the
integers lie exactly in float32 since a grid has at most 2^16 codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qexp.kernels import native

MIN_BITS, MAX_BITS = 2, 16
SMALLEST_RANGE = 1e-8
"""Upper end of the range of a tensor that holds nothing but zeros, so that its scale stays positive."""


@dataclass(frozen=True)
class QParams:
    """The grid of one tensor: ``x ~ scale * (code - zero_point)`` with ``qmin <= code <= qmax``.

    ``scale`` (float32, positive) and ``zero_point`` (int32) broadcast against x: 0-dim per tensor, [C, 1] per output
    channel of a weight, [B, T, 1] per token.
    """

    scale: Tensor
    zero_point: Tensor
    qmin: int
    qmax: int

    @cached_property
    def low(self) -> Tensor:
        """Smallest ``code - zero_point``, as a float tensor."""
        return (self.qmin - self.zero_point).to(self.scale.dtype)

    @cached_property
    def high(self) -> Tensor:
        """Largest ``code - zero_point``, as a float tensor."""
        return (self.qmax - self.zero_point).to(self.scale.dtype)


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision as float32 (its integers end at 2048, or 256 in bfloat16); float32 and float64 as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def grid(bits: int, signed: bool) -> tuple[int, int]:
    """Ends of the integer grid: [-2^(b-1), 2^(b-1) - 1] signed, [0, 2^b - 1] unsigned. ``ValueError`` outside 2..16."""
    if not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(f"bits must be {MIN_BITS}..{MAX_BITS}, got {bits}")
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def qparams_from_range(lo: Tensor, hi: Tensor, bits: int, symmetric: bool, *, signed: bool | None = None) -> QParams:
    """The grid that covers [lo, hi], as in the released code of arXiv 2306.12929.

    Asymmetric: lo = min(lo, 0), hi = max(hi, 1e-8), scale = (hi - lo) / (2^b - 1), zero_point = round(-lo / scale);
    zero is always a code. Symmetric: scale = max(|lo|, |hi|) / qmax, zero_point = 0, signed grid if any lo < 0, else
    unsigned; ``signed`` settles that choice without looking at the data (which on a GPU would wait for it).
    ``ValueError`` if bits are not 2..16.
    """
    lo, hi = at_least_float32(lo), at_least_float32(hi)
    if symmetric:
        qmin, qmax = grid(bits, bool((lo < 0).any()) if signed is None else signed)
        scale = torch.maximum(lo.abs(), hi.abs()).clamp_min(SMALLEST_RANGE) / qmax
        return QParams(scale, torch.zeros_like(scale, dtype=torch.int32), qmin, qmax)
    qmin, qmax = grid(bits, signed=False)
    lo, hi = lo.clamp_max(0.0), hi.clamp_min(SMALLEST_RANGE)
    scale = (hi - lo) / qmax
    return QParams(scale, torch.round(-lo / scale).clamp(qmin, qmax).to(torch.int32), qmin, qmax)


def quantize(x: Tensor, p: QParams) -> Tensor:
    """Codes clamp(round(x / scale) + zero_point, qmin, qmax) of x, as int32 in x's shape."""
    codes = torch.round(at_least_float32(x) / p.scale) + p.zero_point
    return codes.clamp_(p.qmin, p.qmax).to(torch.int32)


def dequantize(q: Tensor, p: QParams) -> Tensor:
    """The numbers that codes stand for: scale * (q - zero_point), in the scale's dtype."""
    # A 0-dim zero point would leave the difference in the codes' own type, where uint8 wraps round.
    return (q.to(torch.int32) - p.zero_point).to(p.scale.dtype) * p.scale


def fake_quantize(x: Tensor, p: QParams) -> Tensor:
    """``dequantize(quantize(x, p), p)`` in x's dtype, differentiable in x by the straight-through estimator.

    scale * clamp(round(x / scale), qmin - zero_point, qmax - zero_point), which equals
    scale * (clamp(round(x / scale) + zero_point, qmin, qmax) - zero_point) since all these are integers below 2^24 or
    clamped. The gradient is 1 where the code was not clamped and 0 where it was; ``p`` gets none.
    """
    if x.requires_grad and torch.is_grad_enabled():
        result: Tensor = _FakeQuantize.apply(x, p)  # type: ignore[no-untyped-call]
        return result
    if _is_native(x, p):
        return torch.ops.qexp.fake_quantize(x, p.scale, p.low, p.high)  # type: ignore[no-any-return]
    steps = (at_least_float32(x) / p.scale).round_()
    return steps.clamp_min_(p.low).clamp_max_(p.high).mul_(p.scale).to(x.dtype)


def _is_native(x: Tensor, p: QParams) -> bool:
    """Whether the native kernels are loaded (they are never built for this) and take x and the grid's shape."""
    return (
        native.is_loaded()
        and x.is_cpu
        and x.dtype == p.scale.dtype == torch.float32
        and x.is_contiguous()
        and (p.scale.dim() == 0 or _lies_over(x, p))
    )


def _lies_over(x: Tensor, p: QParams) -> bool:
    """Whether the grid has one element, or its axes other than 1 are neighbours and as long as x's."""
    if p.scale.shape != p.zero_point.shape or p.scale.dim() > x.dim():
        return False
    over = x.shape[x.dim() - p.scale.dim() :]
    differ = [d for d, size in enumerate(p.scale.shape) if size > 1]
    return not differ or p.scale.shape[differ[0] : differ[-1] + 1] == over[differ[0] : differ[-1] + 1]


def _steps_and_inside(x: Tensor, p: QParams) -> tuple[Tensor, Tensor]:
    """``code - zero_point`` and, as 0.0 or 1.0, where it was not clamped.

    Comparing in place into floats: torch's comparisons with a boolean result are four times slower on a CPU.
    """
    unclamped = (at_least_float32(x) / p.scale).round_()
    steps = unclamped.clamp_min(p.low).clamp_max_(p.high)
    return steps, unclamped.eq_(steps)


def fake_quantize_masked(x: Tensor, p: QParams) -> tuple[Tensor, Tensor]:
    """``fake_quantize(x, p)`` and as booleans where its code was not clamped."""
    if _is_native(x, p):
        return torch.ops.qexp.fake_quantize_masked(x, p.scale, p.low, p.high)  # type: ignore[no-any-return]
    steps, inside = _steps_and_inside(x, p)
    return steps.mul_(p.scale).to(x.dtype), inside.to(torch.bool)


class _FakeQuantize(torch.autograd.Function):
    """Straight-through fake quantization. Keeps one byte an element, or nothing new for a parameter (kept anyway)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: QParams) -> Tensor:
        ctx.qparams = p
        if x.is_leaf:
            ctx.save_for_backward(x)
            return fake_quantize(x, p)
        y, inside = fake_quantize_masked(x, p)
        ctx.save_for_backward(inside)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        if kept.dtype == torch.bool:
            return _where_inside(gradient, kept), None
        return _where_x_inside(gradient, kept, ctx.qparams), None


def _where_inside(gradient: Tensor, inside: Tensor) -> Tensor:
    if native.is_loaded() and gradient.is_cpu and gradient.dtype == torch.float32:
        return torch.ops.qexp.fake_quantize_backward(gradient, inside)  # type: ignore[no-any-return]
    # Seen as bytes, which torch converts several times faster than booleans.
    return inside.view(torch.uint8).to(gradient.dtype).mul_(gradient)


def _where_x_inside(gradient: Tensor, x: Tensor, p: QParams) -> Tensor:
    if _is_native(x, p):
        return torch.ops.qexp.fake_quantize_gradient(gradient, x, p.scale, p.low, p.high)  # type: ignore[no-any-return]
    return _steps_and_inside(x, p)[1].to(gradient.dtype).mul_(gradient)
