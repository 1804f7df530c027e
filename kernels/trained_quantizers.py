"""Quantizers that stand in a network while it is trained: with fixed, current, running or learnt ranges.

Each simulates exactly the grid that it would hand over if training stopped here (``qparams``), so that a network
converted afterwards computes what was trained. Rounding has the straight-through gradient: 1 inside the range, else 0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from qexp.kernels.quantize import QParams, fake_quantize, fake_quantize_masked, grid, qparams_from_range
from qexp.kernels.ranges import minmax, other_axes

SMALLEST_STEP = 1e-8


class TrainedQuantizer(nn.Module):
    """Quantizes on the grid that it was started with: the base of the others.

    Until :meth:`start` or a loaded state dict it returns x itself. Buffers, as those of a frozen quantizer: ``scale``
    (float32, 0-dim or [1, .., C, .., 1]; NaN before the start), ``zero_point`` and ``qmin`` (int32).
    """

    scale: Tensor
    zero_point: Tensor
    qmin: Tensor

    def __init__(self, bits: int, symmetric: bool, shape: tuple[int, ...] = ()):
        super().__init__()
        grid(bits, signed=symmetric)
        self.bits, self.symmetric = bits, symmetric
        self.register_buffer("scale", torch.full(shape, torch.nan))
        self.register_buffer("zero_point", torch.zeros(shape, dtype=torch.int32))
        self.register_buffer("qmin", torch.zeros((), dtype=torch.int32))
        # The same as plain attributes, which a forward pass can read without waiting for a device.
        self.started, self.lowest_code = False, 0

    def start(self, p: QParams) -> None:
        """Begin at the grid ``p``, as calibration found it."""
        self.qmin.fill_(p.qmin)
        self._keep(p)
        self.started, self.lowest_code = True, p.qmin

    @property
    def qparams(self) -> QParams:
        """The grid in use, a snapshot. ``ValueError`` before :meth:`start`."""
        if not self.started:
            raise ValueError("the quantizer has no range yet: calibrate it first")
        p = self._grid()
        return QParams(p.scale.clone(), p.zero_point.clone(), p.qmin, p.qmax)

    def forward(self, x: Tensor) -> Tensor:
        return fake_quantize(x, self._grid()) if self.started else x

    def _grid(self) -> QParams:
        return QParams(self.scale.detach(), self.zero_point, self.lowest_code, self.lowest_code + 2**self.bits - 1)

    @torch.no_grad()
    def _keep(self, p: QParams) -> None:
        self.scale.copy_(p.scale)
        self.zero_point.copy_(p.zero_point)

    def _moved_to(self, lo: Tensor, hi: Tensor) -> QParams:
        p = qparams_from_range(lo, hi, self.bits, self.symmetric, signed=self.lowest_code < 0)
        self._keep(p)
        return p

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self.started = not bool(torch.isnan(self.scale).any())
        self.lowest_code = int(self.qmin)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, {'symmetric' if self.symmetric else 'asymmetric'}"


class CurrentRange(TrainedQuantizer):
    """The range is the tensor's own smallest and largest value in every pass: for weights.

    ``channel_axis`` gives every index along it a range of its own.
    """

    def __init__(self, bits: int, symmetric: bool, shape: tuple[int, ...] = (), channel_axis: int | None = None):
        super().__init__(bits, symmetric, shape)
        self.channel_axis = channel_axis

    def forward(self, x: Tensor) -> Tensor:
        if not self.started:
            return x
        return fake_quantize(x, self._moved_to(*minmax(x.detach(), self.channel_axis)))


class RunningRange(TrainedQuantizer):
    """The range follows the batches of training: new = (1 - momentum) * batch + momentum * old, before it is used.

    It moves in training mode only and while ``moving``; evaluation uses the range that training last used. ``lo`` and
    ``hi`` (float32 buffers) are its ends.
    """

    lo: Tensor
    hi: Tensor

    def __init__(self, bits: int, symmetric: bool, momentum: float = 0.9):
        super().__init__(bits, symmetric)
        self.momentum, self.moving = momentum, True
        self.register_buffer("lo", torch.zeros(()))
        self.register_buffer("hi", torch.zeros(()))

    def start(self, p: QParams) -> None:
        super().start(p)
        # The smallest code of a signed symmetric grid has no counterpart: its range ends where the largest one's does.
        low = -p.high if self.symmetric and p.qmin < 0 else p.low
        self.lo.copy_(low * p.scale)
        self.hi.copy_(p.high * p.scale)

    def forward(self, x: Tensor) -> Tensor:
        if not (self.started and self.training and self.moving):
            return super().forward(x)
        for end, found in zip((self.lo, self.hi), torch.aminmax(x.detach()), strict=True):
            end.lerp_(found.to(end.dtype), 1.0 - self.momentum)
        return fake_quantize(x, self._moved_to(self.lo, self.hi))


class LearntRange(TrainedQuantizer):
    """The step size is learnt (LSQ, arXiv 1902.08153), and with ``learn_offset`` its offset too (LSQ+, 2004.09576).

    ``scale`` is the step. ``offset`` (asymmetric grids only) is the number that the smallest code stands for: the zero
    point is round(qmin - offset / scale), so that zero stays a code. Gradients of y = fake_quantize(x):

        dy/dscale  = round(x / scale) - x / scale inside; outside, the clamped code less the zero point, or with an
                     offset the clamped code less qmin,
        dy/doffset = 0 inside, 1 outside,

    each summed over the n elements that share a step and multiplied by 1 / sqrt(n * qmax).
    """

    offset: nn.Parameter | None

    def __init__(self, bits: int, symmetric: bool, shape: tuple[int, ...] = (), learn_offset: bool = True):
        super().__init__(bits, symmetric, shape)
        del self.scale
        self.scale = nn.Parameter(torch.full(shape, torch.nan))
        learnt = nn.Parameter(torch.zeros(shape)) if learn_offset and not symmetric else None
        self.register_parameter("offset", learnt)

    @torch.no_grad()
    def start(self, p: QParams) -> None:
        super().start(p)
        if self.offset is not None:
            self.offset.copy_(p.low * p.scale)

    @torch.no_grad()
    def keep_positive(self) -> None:
        """Keep the step positive: after every step of the optimizer."""
        self.scale.clamp_min_(SMALLEST_STEP)

    def forward(self, x: Tensor) -> Tensor:
        if not self.started or not torch.is_grad_enabled():
            return super().forward(x)
        p = self._grid()
        factor = (p.qmax * x.numel() / p.scale.numel()) ** -0.5
        return fake_quantize_learnt(x, self.scale, self.offset, p, factor)

    def _grid(self) -> QParams:
        p = super()._grid()
        if self.offset is None:
            return p
        zero_point = torch.round(p.qmin - self.offset.detach() / p.scale).clamp_(p.qmin, p.qmax).to(torch.int32)
        return QParams(p.scale, zero_point, p.qmin, p.qmax)


def fake_quantize_learnt(x: Tensor, scale: Tensor, offset: Tensor | None, p: QParams, factor: float = 1.0) -> Tensor:
    """``fake_quantize(x, p)``, differentiable in the ``scale`` and ``offset`` that ``p`` was made of too.

    See :class:`LearntRange` for the gradients; ``factor`` multiplies those of scale and offset.
    """
    result: Tensor = _LearntFakeQuantize.apply(x, scale, offset, p, factor)  # type: ignore[no-untyped-call]
    return result


class _LearntFakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, offset: Tensor | None, p: QParams, factor: float) -> Tensor:
        y, inside = fake_quantize_masked(x, p)
        ctx.save_for_backward(x, y, inside)
        ctx.qparams, ctx.has_offset, ctx.factor = p, offset is not None, factor
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None, None]:
        x, y, mask = ctx.saved_tensors
        p: QParams = ctx.qparams
        inside = mask.view(torch.uint8).to(gradient.dtype).mul_(gradient)
        # y is scale * round(x / scale) inside and scale * (code - zero point) outside.
        rise = (_dot_like(gradient, y, p.scale) - _dot_like(inside, x, p.scale)) / p.scale
        if not ctx.has_offset:
            return inside, rise * ctx.factor, None, None, None
        outside = _sum_like(gradient, p.scale) - _sum_like(inside, p.scale)
        return inside, (rise - outside * p.low) * ctx.factor, outside * ctx.factor, None, None


def _sum_like(x: Tensor, scale: Tensor) -> Tensor:
    """Sum over all elements that share one of ``scale``'s."""
    axes = [axis for axis, size in enumerate(scale.shape) if size > 1]
    return x.sum(other_axes(x, axes[0]), keepdim=True) if axes else x.sum().reshape(scale.shape)


def _dot_like(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    """Sum of a * b over all elements that share one of ``scale``'s; per tensor without an intermediate."""
    if scale.numel() == 1:
        return torch.dot(a.reshape(-1), b.reshape(-1)).reshape(scale.shape)
    return _sum_like(a * b, scale)
