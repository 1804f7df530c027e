"""Which activations are outliers (arXiv 2312.09211: beyond a fixed gamma; column form as in LLM.int8())."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qexp.kernels import native
from qexp.kernels.fixed_point.mapping import magnitude


@dataclass(frozen=True)
class Threshold:
    """An element is an outlier where |x| > ``gamma`` (``relative``: gamma times the tensor's standard deviation).

    ``by_column``: where one element of a column is, all of it are. 0 takes everything but zeros, infinity nothing.
    ``ValueError`` for a negative gamma or NaN.
    """

    gamma: float
    relative: bool = False
    by_column: bool = False

    def __post_init__(self) -> None:
        if not self.gamma >= 0:
            raise ValueError(f"an outlier threshold is positive, got {self.gamma}")

    def limit(self, x: Tensor) -> float:
        """Largest magnitude of an inlier of x [.., K]; the standard deviation is over all elements (n in its
        denominator)."""
        if not self.relative or math.isinf(self.gamma):
            return self.gamma
        return self.gamma * float(x.std(correction=0)) if x.numel() else 0.0


@dataclass(frozen=True)
class Outliers:
    """Where the outliers of a matrix [M, K] are, and how large its inliers are."""

    limit: float
    columns: Tensor
    """Columns with at least one outlier: int64, ascending."""
    largest: float
    """Largest |x| of all."""
    largest_inlier: float
    """Largest |x| of what stays when the outliers are taken out."""


def find_outliers(x: Tensor, threshold: Threshold) -> Outliers:
    """Outliers of float32 x [M, K]; NaN and infinities show in ``largest``."""
    limit = threshold.limit(x)
    if native.is_loaded() and x.is_cpu:
        columns, largest, kept = torch.ops.qexp.fixed_point_outliers(x, limit, threshold.by_column)
        return Outliers(limit, columns, largest, kept)
    # A NaN limit or magnitude compares false; what is not finite is found by its exponent later.
    magnitudes = x.abs()
    by_column = magnitudes.amax(0) if len(x) else x.new_zeros(x.shape[1])
    with_outliers = by_column > limit
    inliers = magnitudes.masked_fill(~(magnitudes <= limit), 0.0)
    if threshold.by_column:
        inliers.masked_fill_(with_outliers, 0.0)
    return Outliers(limit, with_outliers.nonzero().flatten(), magnitude(x), magnitude(inliers))
