"""Kurtosis of a weight tensor with a gradient that costs few looks at memory, and the penalty made of it (KURE).

KURE: Chmiel et al., arXiv 2002.07686; used on fine-tuned transformers by arXiv 2106.13035.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qexp.kernels import native
from qexp.kernels.quantize import at_least_float32

Mode = Literal["avg", "sum", "max"]
UNIFORM = 1.8
"""Kurtosis of a uniform distribution, KURE's target."""
CHUNK = 2**18
"""Elements that a CPU takes at a time, so that what is computed from them is still in the cache for the next step."""
SMALL_MEAN = 0.1
"""In standard deviations: a mean up to here loses no digits of moments that are computed about zero."""
ROUNDING = 16
"""A standard deviation of up to this many units in the last place of the mean is that of a constant."""


class Moments(NamedTuple):
    """Mean and biased central moments of a tensor of ``n`` elements, as Python numbers."""

    n: int
    mean: float
    second: float
    third: float
    fourth: float


def kurtosis(w: Tensor, unbiased: bool = True) -> Tensor:
    """K(w) = mean(((w - mean) / std)^4) over all elements: 0-dim, float32 or wider, differentiable once.

    Not the excess: 1.8 for a uniform distribution, 3 for a normal one, 1 at least, up to n - 2 + 1 / (n - 1) (std
    biased). ``unbiased``: std with n - 1, as in KURE, makes K smaller by ((n - 1) / n)^2. Shift and scale of w do not
    matter. NaN for a NaN in w. Waits for the device.

    Raises:
        ValueError: for a tensor of fewer than two elements, and for one that is constant up to rounding, or whose
            standard deviation is so small that its fourth power vanishes (1e-9 in float32): K would be 0/0.
    """
    result: Tensor = _Kurtosis.apply(w, unbiased)  # type: ignore[no-untyped-call]
    return result


def kurtosis_penalty(kurtoses: Sequence[Tensor], target: float = UNIFORM, mode: Mode = "avg") -> Tensor:
    """L_K of KURE from each tensor's K: the mean, sum or maximum of (K - target)^2, a scalar.

    Raises:
        ValueError: for no tensors and for an unknown mode.
    """
    if not kurtoses:
        raise ValueError("a penalty on no tensors: choose at least one")
    squares = (torch.stack(list(kurtoses)) - target).square()
    if mode == "avg":
        return squares.mean()
    if mode == "sum":
        return squares.sum()
    if mode == "max":
        return squares.max()
    raise ValueError(f"unknown mode {mode!r}: {', '.join(get_args(Mode))}")


def _moments(w: Tensor) -> Moments:
    """Moments about zero need one look at memory where the mean is small beside the spread, as it is in weights."""
    if w.numel() < 2:
        raise ValueError(f"kurtosis of {w.numel()} element(s) is 0/0: at least two are needed")
    m = _moments_by(w, 0.0)
    if m.mean**2 > SMALL_MEAN**2 * m.second:
        m = _moments_by(w, float(w.mean()))
    limits = torch.finfo(w.dtype)
    if m.second <= max((ROUNDING * limits.eps * m.mean) ** 2, limits.tiny**0.5):
        raise ValueError("kurtosis of a constant tensor is 0/0: its elements do not differ")
    return m


def _moments_by(w: Tensor, pivot: float) -> Moments:
    """Central moments from powers of w - pivot, which should lie near the mean."""
    a, b, c, d = (_power_sums(w, pivot) / w.numel()).tolist()
    return Moments(w.numel(), pivot + a, b - a**2, c - 3 * a * b + 2 * a**3, d - 4 * a * c + 6 * a**2 * b - 3 * a**4)


def _power_sums(w: Tensor, pivot: float) -> Tensor:
    """The sums of (w - pivot)^1 to ^4, float64 [4]: those of chunks, added in float64."""
    if _is_native(w):
        result: Tensor = torch.ops.qexp.power_sums(w, pivot)
        return result
    parts = _chunks(w)
    shifted, squares = torch.empty_like(parts[0]), torch.empty_like(parts[0])
    sums = []
    for part in parts:
        x = torch.sub(part, pivot, out=shifted[: len(part)]) if pivot else part
        x2 = torch.mul(x, x, out=squares[: len(part)])
        sums += [x.sum(), torch.dot(x, x), torch.dot(x, x2), torch.dot(x2, x2)]
    return torch.stack(sums).view(-1, 4).double().sum(0)


def _cubic_of_centred(w: Tensor, mean: float, cubic: float, linear: float, constant: float) -> Tensor:
    """cubic c^3 + linear c + constant of c = w - mean."""
    if _is_native(w):
        result: Tensor = torch.ops.qexp.cubic_of_centred(w, mean, cubic, linear, constant)
        return result
    of_c, alone = w.new_tensor(linear), w.new_tensor(constant)
    result = torch.empty_like(w)
    factors = torch.empty_like(_chunks(w)[0])
    for part, c in zip(_chunks(w), _chunks(result), strict=True):
        torch.sub(part, mean, out=c)
        factor = torch.addcmul(of_c, c, c, value=cubic, out=factors[: len(c)])
        torch.addcmul(alone, c, factor, out=c)
    return result


def _is_native(w: Tensor) -> bool:
    """Whether one look at memory is enough, by the compiled kernels."""
    return native.is_loaded() and w.is_cpu and w.dtype == torch.float32


def _chunks(w: Tensor) -> tuple[Tensor, ...]:
    """Flat views of w that are small enough for a CPU's cache; elsewhere all of w."""
    return torch.split(w.view(-1), CHUNK if w.is_cpu else w.numel())


class _Kurtosis(torch.autograd.Function):
    """K and the closed form of its gradient, which keeps nothing but w."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, unbiased: bool) -> Tensor:
        values = at_least_float32(w.detach()).contiguous()
        m = _moments(values)
        factor = ((m.n - 1) / m.n) ** 2 if unbiased else 1.0
        ctx.save_for_backward(w)
        ctx.moments, ctx.factor = m, factor
        return values.new_tensor(factor * m.fourth / m.second**2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """dK/dw = 4 / (n s) (z^3 - S - K z), written in c = w - mean: 4 / (n m2^2) (c^3 - m4 / m2 c - m3)."""
        (w,) = ctx.saved_tensors
        m: Moments = ctx.moments
        values = at_least_float32(w.detach()).contiguous()
        cubic = 4 * ctx.factor * float(gradient) / (m.n * m.second**2)
        result = _cubic_of_centred(values, m.mean, cubic, -cubic * m.fourth / m.second, -cubic * m.third)
        return result.to(w.dtype), None
