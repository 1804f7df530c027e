"""Range estimators: which [lo, hi] the integer grid of a tensor should cover, learnt from batches of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from qexp.kernels import native
from qexp.kernels.quantize import QParams, at_least_float32, fake_quantize, qparams_from_range

Kind = Literal["minmax", "running_minmax", "percentile", "mse"]
Range = tuple[Tensor, Tensor]


class RangeEstimator:
    """Range over all batches seen; the base class is ``minmax``, the smallest and largest value of all.

    ``channel_axis=None`` gives 0-dim ends, an axis one range for each index along it (ends shaped [1, .., C, .., 1]).
    Nothing but ``mse`` waits for the device: NaN and infinity are remembered in :attr:`finite`, asked for at the end.
    """

    def __init__(self, channel_axis: int | None = None):
        self.channel_axis = channel_axis
        self._range: Range | None = None
        self._finite: Tensor | None = None

    def update(self, x: Tensor) -> None:
        """Take in one batch. ``ValueError`` if it is empty."""
        if x.numel() == 0:
            raise ValueError("cannot estimate the range of an empty tensor")
        x = at_least_float32(x.detach())
        ends = minmax(x, self.channel_axis)
        finite = torch.isfinite(ends[0]).all() & torch.isfinite(ends[1]).all()
        self._finite = finite if self._finite is None else self._finite & finite
        batch = self._batch_range(x, ends)
        self._range = batch if self._range is None else self._combine(self._range, batch)

    def range(self) -> Range:
        """Current (lo, hi). ``ValueError`` before any data."""
        if self._range is None:
            raise ValueError("no data has been seen to estimate a range from")
        return self._range

    @property
    def finite(self) -> bool:
        """Whether every value seen was finite (waits for the device)."""
        return self._finite is None or bool(self._finite)

    def _batch_range(self, x: Tensor, ends: Range) -> Range:
        return ends

    def _combine(self, old: Range, batch: Range) -> Range:
        return torch.minimum(old[0], batch[0]), torch.maximum(old[1], batch[1])


class RunningMinMax(RangeEstimator):
    """``running_minmax``: new = (1 - momentum) * batch + momentum * old; the first batch is taken as it is."""

    def __init__(self, channel_axis: int | None = None, momentum: float = 0.9):
        super().__init__(channel_axis)
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"momentum must lie in 0..1, got {momentum}")
        self.momentum = momentum

    def _combine(self, old: Range, batch: Range) -> Range:
        weight = 1.0 - self.momentum
        return torch.lerp(old[0], batch[0], weight), torch.lerp(old[1], batch[1], weight)


class Percentile(RunningMinMax):
    """``percentile``: each batch's (100 - p, p) percentiles, combined over batches like ``running_minmax``."""

    def __init__(self, channel_axis: int | None = None, momentum: float = 0.9, percentile: float = 99.999):
        super().__init__(channel_axis, momentum)
        if not 50.0 < percentile <= 100.0:
            raise ValueError(f"percentile must lie above 50 and up to 100, got {percentile}")
        self.percentile = percentile

    def _batch_range(self, x: Tensor, ends: Range) -> Range:
        rows = x.reshape(1, -1) if self.channel_axis is None else x.movedim(self.channel_axis, 0).flatten(1)
        shape = ends[0].shape
        return (-upper_percentile(-rows, self.percentile)).view(shape), upper_percentile(rows, self.percentile).view(
            shape
        )


class MSE(RunningMinMax):
    """``mse``: each batch's range of least squared quantization error, combined over batches like ``running_minmax``.

    A deviation from the released code, which adds the losses of all batches on a grid of thresholds laid out by the
    first one (one-dimensional case) or keeps the last batch's optimum (asymmetric). A weight is one batch: no matter.
    """

    def __init__(self, bits: int, symmetric: bool, channel_axis: int | None = None, momentum: float = 0.9):
        super().__init__(channel_axis, momentum)
        self.bits = bits
        self.symmetric = symmetric

    def _batch_range(self, x: Tensor, ends: Range) -> Range:
        return mse_range(x, self.bits, self.symmetric, self.channel_axis, ends)


def make_estimator(
    kind: Kind,
    *,
    bits: int,
    symmetric: bool,
    channel_axis: int | None = None,
    momentum: float = 0.9,
    percentile: float = 99.999,
) -> RangeEstimator:
    """The estimator called ``kind``; each takes of the settings what it needs. ``ValueError`` for an unknown kind."""
    if kind == "minmax":
        return RangeEstimator(channel_axis)
    if kind == "running_minmax":
        return RunningMinMax(channel_axis, momentum)
    if kind == "percentile":
        return Percentile(channel_axis, momentum, percentile)
    if kind == "mse":
        return MSE(bits, symmetric, channel_axis, momentum)
    raise ValueError(f"unknown range estimator {kind!r}: minmax, running_minmax, percentile or mse")


def other_axes(x: Tensor, axis: int) -> list[int]:
    return [d for d in range(x.dim()) if d != axis % x.dim()]


def minmax(x: Tensor, channel_axis: int | None) -> Range:
    """Smallest and largest value, per tensor (0-dim) or per channel (kept dimensions)."""
    if channel_axis is None:
        lo, hi = torch.aminmax(x)
        return lo, hi
    dims = other_axes(x, channel_axis)
    return x.amin(dims, keepdim=True), x.amax(dims, keepdim=True)


def upper_percentile(rows: Tensor, percentile: float) -> Tensor:
    """The p-th percentile (p > 50) of each row of [R, n], linear between neighbours like numpy's default: [R].

    Looks only at the tail, which is a handful of values at the usual 99.99 and above.
    """
    from_top = (rows.shape[1] - 1) * (1.0 - percentile / 100.0)
    above = math.floor(from_top)
    tail = rows.topk(min(above + 2, rows.shape[1]), dim=1).values
    return torch.lerp(tail[:, above], tail[:, -1], from_top - above)


COARSE = tuple(0.9**k for k in range(51))
"""Factors on the min-max range: 1 down to 0.005."""
WIDE = tuple(1.15**k for k in range(-9, 10))
FINE = tuple(1.015**k for k in range(-7, 8))


def mse_range(x: Tensor, bits: int, symmetric: bool, channel_axis: int | None, ends: Range) -> Range:
    """The (lo, hi) whose grid loses least: argmin of sum (x - fake_quantize(x))^2, per tensor or per channel.

    Both ends of the min-max range shrink together along a geometric grid; then, for an asymmetric grid on two-sided
    data, each end moves alone, coarsely and finely; then both finely. All channels are searched at once. Min-max itself
    is the first candidate, so the result is never worse. The released code instead tries 100 thresholds
    k (absmax + 0.5) / 100, of which small weights use few, or a golden section over range and shift, which assumes one
    minimum where a coarse grid of codes makes several.
    """
    search = _Search(x, bits, symmetric, channel_axis, ends)
    search.scan(COARSE)
    if search.signed and not symmetric:
        for factors in (WIDE, FINE):
            search.scan(factors, move_lo=False)
            search.scan(factors, move_hi=False)
    search.scan(FINE)
    return search.best


class _Search:
    """The best range so far, per channel, and its loss."""

    def __init__(self, x: Tensor, bits: int, symmetric: bool, channel_axis: int | None, ends: Range):
        self.rows = x.reshape(1, -1) if channel_axis is None else x.movedim(channel_axis, 0).flatten(1)
        self.bits, self.symmetric = bits, symmetric
        self.signed = bool((ends[0] < 0).any())
        lo, hi = ends[0].clamp_max(0.0), ends[1].clamp_min(0.0)
        if symmetric:
            hi = torch.maximum(-lo, hi)
            lo = -hi if self.signed else lo
        self.limits = self.best = (lo, hi)
        self.loss = torch.full_like(hi, torch.inf, dtype=torch.float64)

    def scan(self, factors: Sequence[float], *, move_lo: bool = True, move_hi: bool = True) -> None:
        """Try the best range so far with its ends multiplied by each factor, within the min-max range."""
        los, his = (torch.stack([end * factor for factor in factors]) for end in self.best)
        los = torch.maximum(los, self.limits[0]) if move_lo else self.best[0].expand_as(los)
        his = torch.minimum(his, self.limits[1]) if move_hi else self.best[1].expand_as(his)
        losses = self._losses(los, his)
        first = losses.argmin(0, keepdim=True)
        loss, lo, hi = (each.gather(0, first)[0] for each in (losses, los, his))
        better = loss < self.loss
        self.best = (torch.where(better, lo, self.best[0]), torch.where(better, hi, self.best[1]))
        self.loss = torch.where(better, loss, self.loss)

    def _losses(self, los: Tensor, his: Tensor) -> Tensor:
        """The loss of every candidate: [K, *shape of a range], as are ``los`` and ``his``."""
        params = qparams_from_range(los, his, self.bits, self.symmetric, signed=self.signed)
        scale, zero_point = (each.reshape(len(los), -1) for each in (params.scale, params.zero_point))
        grids = QParams(scale, zero_point, params.qmin, params.qmax)
        return _squared_errors(self.rows, grids).view(los.shape)


def _squared_errors(rows: Tensor, grids: QParams) -> Tensor:
    """Sums of (quantized x - x)^2 over each row of [C, n], for grids [K, C]: [K, C] in float64."""
    if native.is_loaded() and rows.is_cpu and rows.dtype == grids.scale.dtype == torch.float32:
        return torch.ops.qexp.squared_errors(rows, grids.scale, grids.low, grids.high)  # type: ignore[no-any-return]
    losses = []
    for scale, zero_point in zip(grids.scale.unsqueeze(-1), grids.zero_point.unsqueeze(-1), strict=True):
        error = fake_quantize(rows, QParams(scale, zero_point, grids.qmin, grids.qmax)).sub_(rows)
        losses.append(error.square_().sum(1, dtype=torch.float64))
    return torch.stack(losses)
