"""Unit-scaled activation functions, softmax, dropout, sums and additions.

The factors of an elementwise f are 1 / std f(z) and 1 / rms f'(z) for z ~ N(0, 1), before the constraint.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from qexp.kernels.quantize import at_least_float32
from qexp.kernels.unit_scaling.rules import PAPER, Rules
from qexp.kernels.unit_scaling.scale import scaled

RELU = (math.sqrt(2.0 / (1.0 - 1.0 / math.pi)), math.sqrt(2.0))
TANH = (1.593, 1.467)
SIGMOID = (4.802, 4.722)


def gelu(input: Tensor, approximate: str = "none", rules: Rules = PAPER) -> Tensor:
    """GELU, ideal factors 1.701 and 1.481 (constrained: 1.587); ``approximate`` as torch's ("none" or "tanh")."""
    return _unary(lambda x: F.gelu(x, approximate=approximate), input, rules.gelu, rules)


def relu(input: Tensor, rules: Rules = PAPER) -> Tensor:
    """ReLU, ideal factors (2 / (1 - 1 / pi))^1/2 = 1.713 and 2^1/2."""
    return _unary(F.relu, input, RELU, rules)


def silu(input: Tensor, rules: Rules = PAPER) -> Tensor:
    """x sigmoid(x), ideal factors 1.787 and 1.624."""
    return _unary(F.silu, input, rules.silu, rules)


def tanh(input: Tensor, rules: Rules = PAPER) -> Tensor:
    """tanh, ideal factors 1.593 and 1.467."""
    return _unary(torch.tanh, input, TANH, rules)


def sigmoid(input: Tensor, rules: Rules = PAPER) -> Tensor:
    """The logistic function, ideal factors 4.802 and 4.722."""
    return _unary(torch.sigmoid, input, SIGMOID, rules)


def softmax(input: Tensor, dim: int = -1, rules: Rules = PAPER) -> Tensor:
    """Softmax over s entries, multiplied by s both ways (``rules.softmax_exponent``), computed in at least float32.

    The paper's s makes the mean 1, with a standard deviation of 1.31 for scores N(0, 1) and a gradient of 1.65.
    """
    factor = max(input.shape[dim], 1) ** rules.softmax_exponent
    probabilities = _unary(lambda x: torch.softmax(x, dim), at_least_float32(input), (factor, factor), rules)
    return probabilities.to(input.dtype)


def dropout(input: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """torch's dropout times (1 - p)^1/2, which undoes the noise that 1 / (1 - p) adds; forward and backward alike.

    The factor stays in evaluation, whose output is then the mean of training's. ``ValueError`` unless 0 <= p < 1.
    """
    if not 0.0 <= p < 1.0:
        raise ValueError(f"dropout needs 0 <= p < 1, got {p}")
    return scaled(F.dropout(input, p, training), (1.0 - p) ** 0.5, (1.0 - p) ** 0.5)


def sum(input: Tensor, dim: int | tuple[int, ...] = -1, keepdim: bool = False, rules: Rules = PAPER) -> Tensor:
    """Sum over n entries along ``dim``, ideal factors n^-1/2 and 1."""
    dims = (dim,) if isinstance(dim, int) else dim
    entries = max(math.prod(input.shape[d] for d in dims), 1)
    return _unary(lambda x: x.sum(dims, keepdim=keepdim), input, (entries**-0.5, 1.0), rules)


def add(input: Tensor, other: Tensor, rules: Rules = PAPER) -> Tensor:
    """input + other, ideal factors 2^-1/2 and, for an operand repeated c times by broadcasting, c^-1/2.

    For a residual sum use :mod:`~qexp.kernels.unit_scaling.residual`, for a bias :func:`bias_add`.
    """
    size = torch.broadcast_shapes(input.shape, other.shape).numel()  # type: ignore[no-untyped-call]
    betas = ((max(size, 1) / max(x.numel(), 1)) ** -0.5 for x in (input, other))
    alpha, beta_input, beta_other = rules.constraint(2.0**-0.5, *betas)
    if alpha == beta_input == beta_other:
        return (input + other) * alpha
    return scaled(scaled(input, beta=beta_input) + scaled(other, beta=beta_other), alpha)


def _unary(function: Callable[[Tensor], Tensor], x: Tensor, factors: tuple[float, float], rules: Rules) -> Tensor:
    alpha, beta = rules.constraint(*factors)
    if alpha == beta:
        return function(x) * alpha  # the same mathematics as below in one multiplication
    return scaled(function(scaled(x, beta=beta)), alpha)
