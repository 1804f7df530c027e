"""Outlier statistics of one tensor over many batches (arXiv 2306.12929, section 3 and the released metrics code)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qexp.kernels import native

KURTOSIS_EPSILON = 1e-6
OUTLIER_STDS = 6.0
TOP_DIMS = 8


class TensorStatistics:
    """Statistics over the rows of all batches; a row is the last ``row_ndim`` dimensions (2: [T, d], 1: [d]).

    Each row is taken for itself (its own mean and standard deviation, Bessel-corrected) and the rows are averaged,
    every row counting once. Sums are kept in float64 on the device; only a mask and :meth:`result` wait for it.
    """

    def __init__(self, row_ndim: int = 2):
        if row_ndim < 1:
            raise ValueError(f"a row has at least 1 dimension, got row_ndim={row_ndim}")
        self.row_ndim = row_ndim
        self._sums: Tensor | None = None
        self._dim_max: Tensor | None = None
        self._dim_outliers: Tensor | None = None

    @torch.no_grad()
    def update(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Take in x: [..., *row]. ``mask`` (true = counts) covers x's leading axes up to its last but one.

        Usually mask is [B, T] for x [B, T, d]. With fewer axes than x has before the last, it is repeated over those
        after the first, as over heads in [B, H, T, S]. A row is its unmasked positions; a row without any is left out.
        """
        if x.dim() < self.row_ndim:
            raise ValueError(f"rows have {self.row_ndim} dimensions but the tensor has shape {tuple(x.shape)}")
        rows = x.detach().float().reshape(-1, math.prod(x.shape[x.dim() - self.row_ndim : -1]), x.shape[-1])
        if mask is None or bool(mask.all()):
            self._add(rows, None)
        else:
            self._add(rows, _row_mask(mask, x).reshape(rows.shape[:2]))

    def _add(self, rows: Tensor, mask: Tensor | None) -> None:
        """rows: [R, P, d]; mask: [R, P], true where a position counts."""
        if native.is_loaded() and rows.is_cpu:
            # One look at the memory and a second at the cache, in place of eight passes.
            self._accumulate(*torch.ops.qexp.row_statistics(rows, mask, KURTOSIS_EPSILON, OUTLIER_STDS))
            return
        positions = rows.shape[1] * rows.new_ones(len(rows), 1, 1)
        if mask is not None:
            keep = mask.any(1)
            rows, mask = rows[keep], mask[keep].unsqueeze(-1)
            positions = mask.sum(1, keepdim=True).to(rows.dtype)
            rows = rows.masked_fill(~mask, 0.0)
        n = positions * rows.shape[2]
        magnitude_by_dim = rows.abs().amax(1)
        centred = rows - rows.sum((1, 2), keepdim=True) / n
        if mask is not None:
            centred *= mask
        squares = centred.square_()
        variance = squares.sum((1, 2), keepdim=True) / (n - 1).clamp_min(1)
        outliers_by_dim = (squares > OUTLIER_STDS**2 * variance).sum((0, 1))
        fourth = squares.square_().sum((1, 2), keepdim=True) / n
        fourth_power = variance.square()
        per_row = (
            torch.ones_like(n),
            n,
            magnitude_by_dim.amax(1).view_as(n),
            fourth / (fourth_power + KURTOSIS_EPSILON),
            torch.where(fourth_power > 0, fourth / fourth_power, 0.0),
            variance.sqrt(),
        )
        dim_max = magnitude_by_dim.amax(0) if len(magnitude_by_dim) else outliers_by_dim.float()
        self._accumulate(torch.stack([v.double().sum() for v in per_row]), dim_max, outliers_by_dim)

    def _accumulate(self, sums: Tensor, dim_max: Tensor, outliers_by_dim: Tensor) -> None:
        if self._sums is None or self._dim_max is None or self._dim_outliers is None:
            self._sums, self._dim_max, self._dim_outliers = sums, dim_max, outliers_by_dim
            return
        self._sums = self._sums + sums
        old, new = _same_length(self._dim_max, dim_max)
        self._dim_max = torch.maximum(old, new)
        old, new = _same_length(self._dim_outliers, outliers_by_dim)
        self._dim_outliers = old + new

    @property
    def per_dim_max(self) -> Tensor:
        """Largest magnitude of each index of the last axis: [d] (attention scores: of each key position)."""
        if self._dim_max is None:
            raise ValueError("no data has been seen")
        return self._dim_max

    def result(self) -> dict[str, float | list[list[int]]]:
        """The figures. ``ValueError`` before any unmasked data.

        ``max_abs``: largest magnitude. ``inf_norm``: mean over rows of the row's largest magnitude. ``kurtosis``: mean
        over rows of mean((x - mean)^4) / (std^4 + 1e-6), Gaussian = 3; ``kurtosis_plain`` without the 1e-6 (0 for a
        constant row). ``std``: mean over rows. ``outlier_count``, ``outlier_fraction``: values more than 6 std from
        their row's mean. ``outlier_dims``: up to 8 pairs [index along the last axis, outliers there], most first.
        """
        if self._sums is None or self._dim_outliers is None or not (rows := float(self._sums[0])):
            raise ValueError("no data has been seen")
        _, values, infinity, kurtosis, plain, std = self._sums.tolist()
        counts, dims = torch.sort(self._dim_outliers, descending=True, stable=True)
        total = int(counts.sum())
        return {
            "max_abs": float(self.per_dim_max.max()),
            "inf_norm": infinity / rows,
            "kurtosis": kurtosis / rows,
            "kurtosis_plain": plain / rows,
            "std": std / rows,
            "outlier_count": total,
            "outlier_fraction": total / values,
            "outlier_dims": [[d, c] for d, c in zip(dims.tolist()[:TOP_DIMS], counts.tolist(), strict=False) if c],
        }


def _row_mask(mask: Tensor, x: Tensor) -> Tensor:
    """``mask`` as booleans in the shape x.shape[:-1], repeated over the axes after the first that it lacks."""
    missing = x.dim() - 1 - mask.dim()
    if missing > 0:
        mask = mask.reshape(mask.shape[0], *[1] * missing, *mask.shape[1:])
    try:
        return mask.bool().expand(x.shape[:-1])
    except RuntimeError:
        raise ValueError(f"mask {tuple(mask.shape)} does not fit a tensor of shape {tuple(x.shape)}") from None


def _same_length(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both padded with zeros to the longer: the last axis of attention scores is as long as the batch's sequences."""
    length = max(len(a), len(b))
    return torch.nn.functional.pad(a, (0, length - len(a))), torch.nn.functional.pad(b, (0, length - len(b)))
