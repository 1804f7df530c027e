"""A linear layer in dynamic fixed point: both passes as integer products (arXiv 2207.08822, 2312.09211).

    y  = map(x) map(w)^T + b        dx = map(g) map(w)        dw = map(g)^T map(x)        db = sum of map(g)

with the forward's integers of x and w used again. Where x is split, so it is in dw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from qexp.kernels.fixed_point.mapping import Rounding
from qexp.kernels.fixed_point.operand import Operand, OutlierFormat, map_operand
from qexp.kernels.fixed_point.outliers import Threshold
from qexp.kernels.fixed_point.products import column_sums, multiply, pairs_nn, pairs_nt, pairs_tn
from qexp.kernels.int8 import PackedWeight


@dataclass(frozen=True)
class Arithmetic:
    """Bits of each factor, 4..16, its rounding, and what becomes of outlier activations (None: nothing apart)."""

    activation_bits: int = 8
    weight_bits: int = 8
    gradient_bits: int = 8
    forward_rounding: Rounding = "nearest"
    gradient_rounding: Rounding = "stochastic"
    threshold: Threshold | None = None
    outliers: OutlierFormat | None = None

    def activations(self, x: Tensor, seed: int = 0) -> Operand:
        """float32 x [M, K], inliers and outliers apart where asked for."""
        return map_operand(x, self.activation_bits, self.forward_rounding, seed, self.threshold, self.outliers)

    def weights(self, w: Tensor, seed: int = 0) -> Operand:
        """float32 w [N, K]; weights have no outliers apart."""
        return map_operand(w, self.weight_bits, self.forward_rounding, seed)

    def gradients(self, g: Tensor, seed: int = 0) -> Operand:
        """float32 gradient [M, N] of an output."""
        return map_operand(g, self.gradient_bits, self.gradient_rounding, seed)


def linear(x: Operand, weight: Operand, bias: Tensor | None, packed: Sequence[Tensor | PackedWeight] = ()) -> Tensor:
    """float32 [M, N] of x [M, K] and weight [N, K], whose tiles may be ``packed`` too; bias is added in float32."""
    return multiply(pairs_nt(x, weight, packed), bias)


def input_gradient(gradient: Operand, weight: Operand) -> Tensor:
    """float32 dx [M, K] of the gradient [M, N] and weight [N, K]."""
    return multiply(pairs_nn(gradient, weight))


def weight_gradient(gradient: Operand, x: Operand) -> Tensor:
    """float32 dw [N, K] of the gradient [M, N] and x [M, K]."""
    return multiply(pairs_tn(gradient, x))


def bias_gradient(gradient: Operand) -> Tensor:
    """float32 db [N]: integer column sums of the gradient's tiles, scaled."""
    sums = [column_sums(tile.codes).double() * math.ldexp(1.0, tile.exponent) for tile in gradient.tiles]
    total: Tensor = sum(sums[1:], start=sums[0])
    return total.float()
