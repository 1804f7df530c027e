"""Layer normalisation in dynamic fixed point, forward and backward.

arXiv 2209.09815 maps layer-norm too; how is not established, so what follows is ours. Input, normalised values, gain
and incoming gradient are mapped; what is summed or multiplied with each other are their integers; the square root and
what is done with its outcome element by element stay in floating point, and so do the bias and the division of means:

    S = sum q,  Q = sum q^2,  xhat = (n q - S) / sqrt(n Q - S^2 + eps n^2 / step^2),  y = map(xhat) map(gain) + bias

with q the codes of a row of n values. Integers times their step are kept in float64, whose sums and products of them
are exact below 2^53 steps: 8 bits to n = 2^19, 16 bits to n = 2^11.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from qexp.kernels.fixed_point.linear import Arithmetic, bias_gradient
from qexp.kernels.fixed_point.operand import Operand

SEEDS = 6
"""A forward pass draws from ``seed`` .. ``seed + SEEDS - 1``: for three tensors, inliers and outliers apart."""


@dataclass(frozen=True)
class Normalized:
    """What the backward pass uses again: xhat [M, n] and gain [1, n] as mapped, and 1 / sigma as float64 [M, 1]."""

    values: Operand
    gain: Operand
    inverse_deviation: Tensor


def layer_norm(
    x: Tensor, gain: Tensor, bias: Tensor | None, eps: float, arithmetic: Arithmetic, seed: int = 0
) -> tuple[Tensor, Normalized]:
    """float32 y [M, n] of float32 x [M, n], gain [n] and bias [n], and what :func:`layer_norm_gradients` needs.

    x and xhat are mapped as activations are, outliers apart where theirs are; the gain as weights are.
    ``NotFiniteError`` for NaN or infinity.
    """
    n = x.shape[1]
    q = arithmetic.activations(x, seed).to_float()
    sums = q.sum(1, keepdim=True)
    spread = (n * q.square().sum(1, keepdim=True) - sums.square()).clamp_min_(0.0)
    inverse = (spread + eps * n**2).rsqrt()
    values = arithmetic.activations(((n * q - sums) * inverse).float(), seed + 2)
    mapped_gain = arithmetic.weights(gain.unsqueeze(0), seed + 4)
    y = (values.to_float() * mapped_gain.to_float()).float()
    return y if bias is None else y.add_(bias), Normalized(values, mapped_gain, n * inverse)


def layer_norm_gradients(
    gradient: Tensor, saved: Normalized, arithmetic: Arithmetic, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """float32 dx [M, n], dgain [n] and dbias [n] of the float32 gradient [M, n] of y, mapped as gradients are.

    h = map(g) map(gain),  dx = (h - mean(h) - xhat mean(h xhat)) / sigma,  dgain = sum of map(g) xhat, dbias that of
    map(g); xhat is the mapped one, and every sum one of integers.
    """
    mapped = arithmetic.gradients(gradient, seed)
    g, values = mapped.to_float(), saved.values.to_float()
    h = g * saved.gain.to_float()
    along = (h * values).mean(1, keepdim=True)
    dx = (h - h.mean(1, keepdim=True) - values * along) * saved.inverse_deviation
    return dx.float(), (g * values).sum(0).float(), bias_gradient(mapped)
