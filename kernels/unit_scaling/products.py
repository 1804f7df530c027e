"""Unit-scaled products: matrix product, linear layer, convolution, attention."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from qexp.kernels.unit_scaling.rules import PAPER, Rules
from qexp.kernels.unit_scaling.scale import scaled


def matmul(
    left: Tensor, right: Tensor, constrain_left: bool = True, constrain_right: bool = True, rules: Rules = PAPER
) -> Tensor:
    """left @ right of two activations: [.., m, k] x [.., k, n] -> [.., m, n].

    Ideal factors: output k^-1/2, left n^-1/2, right m^-1/2; an operand that is broadcast over
    c matrices sums its gradient over them, so m or n becomes c times as large. An operand on a cut-edge may be left
    out of the constraint. ``ValueError`` for vectors.
    """
    if left.dim() < 2 or right.dim() < 2:
        raise ValueError(f"unit-scaled matmul needs matrices, got shapes {tuple(left.shape)} and {tuple(right.shape)}")
    (m, k), n = left.shape[-2:], right.shape[-1]
    shape = torch.broadcast_shapes(left.shape[:-2], right.shape[:-2])  # type: ignore[no-untyped-call]
    matrices = shape.numel()
    beta_left = _power(n * matrices // max(left.shape[:-2].numel(), 1), -0.5)
    beta_right = _power(m * matrices // max(right.shape[:-2].numel(), 1), -0.5)
    alpha = _power(k, -0.5)
    if constrain_left and constrain_right:
        alpha, beta_left, beta_right = rules.constraint(alpha, beta_left, beta_right)
    elif constrain_left:
        alpha, beta_left = rules.constraint(alpha, beta_left)
    elif constrain_right:
        alpha, beta_right = rules.constraint(alpha, beta_right)
    if alpha == beta_left == beta_right:
        return left @ right * alpha
    return scaled(scaled(left, beta=beta_left) @ scaled(right, beta=beta_right), alpha)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None, rules: Rules = PAPER, uses: int = 1) -> Tensor:
    """alpha * input @ weight^T + bias: [.., m] with weight [n, m] and bias [n] -> [.., n].

    Ideal factors, with b the product of the leading dimensions: output m^-1/2, input n^-1/2, constrained together
    (geometric mean: (m n)^-1/4), weight and bias b^-1/2 or ``rules.weight_exponent``; b is ``uses`` times as
    large where a pass uses them that often (a recurrence). ``weight`` begins as N(0, 1).
    """
    return _linear(input, weight, bias, *linear_factors(weight, uses * input.shape[:-1].numel(), rules))


def linear_factors(weight: Tensor, rows: int, rules: Rules = PAPER) -> tuple[float, float, float]:
    """alpha of the output, beta of the input, beta of weight and bias in :func:`linear`."""
    fan_out, fan_in = weight.shape
    alpha, beta = rules.constraint(_power(fan_in, -0.5), _power(fan_out, -0.5))
    return alpha, beta, _power(rows, rules.weight_exponent)


def linear_readout(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, rules: Rules = PAPER, uses: int = 1
) -> Tensor:
    """The last projection, from the last residual sum to the loss: :func:`linear` without a constraint.

    Output m to ``rules.readout_exponent`` (paper -1/2, u-muP -1), input n^-1/2, weight and bias as in :func:`linear`.
    """
    return _linear(input, weight, bias, *readout_factors(weight, uses * input.shape[:-1].numel(), rules))


def readout_factors(weight: Tensor, rows: int, rules: Rules = PAPER) -> tuple[float, float, float]:
    """:func:`linear_factors` of :func:`linear_readout`."""
    fan_out, fan_in = weight.shape
    return _power(fan_in, rules.readout_exponent), _power(fan_out, -0.5), _power(rows, rules.weight_exponent)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, alpha: float, beta: float, beta_weight: float) -> Tensor:
    result: Tensor = _ScaledLinear.apply(x, weight, bias, alpha, beta, beta_weight)  # type: ignore[no-untyped-call]
    return result


class _ScaledLinear(torch.autograd.Function):
    """What ``scaled`` on input, parameters and product would give, with every factor inside a matrix product.

    There it costs no pass over a tensor, and in half precision acts before a long sum is rounded or overflows.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, alpha: float, beta: float, beta_weight: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.betas = (beta, beta_weight)
        rows = x.reshape(x.shape[:-1].numel(), x.shape[-1])
        if bias is None:
            product = _scaled_product(rows, weight.t(), alpha)
        else:
            product = torch.addmm(bias, rows, weight.t(), alpha=alpha)
        return product.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        beta, beta_weight = ctx.betas
        rows, incoming = (t.reshape(x.shape[:-1].numel(), t.shape[-1]) for t in (x, gradient))
        of_x, of_weight, of_bias = ctx.needs_input_grad[:3]
        return (
            _scaled_product(incoming, weight, beta).view(x.shape) if of_x else None,
            _scaled_product(incoming.t(), rows, beta_weight) if of_weight else None,
            incoming.sum(0) * beta_weight if of_bias else None,
            *(None, None, None),
        )


def _scaled_product(left: Tensor, right: Tensor, factor: float) -> Tensor:
    return torch.addmm(left.new_zeros(()), left, right, beta=0, alpha=factor)


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
    rules: Rules = PAPER,
) -> Tensor:
    """Convolution [B, in, T] with weight [out, in / groups, k] -> [B, out, T'], bias added unscaled.

    Ideal factors: output (k in / groups)^-1/2 and input (k / stride * out / groups)^-1/2, constrained together; weight
    and bias (B T')^-1/2 or ``rules.weight_exponent``.
    """
    fan_out, fan_in, width = weight.shape
    length = (input.shape[-1] + 2 * padding - dilation * (width - 1) - 1) // stride + 1
    rows = input.shape[:-2].numel() * length
    alpha, beta = rules.constraint(_power(width * fan_in, -0.5), (width * fan_out / (stride * groups)) ** -0.5)
    x, filters = scaled(input, beta=beta / alpha), parameter(weight, rows, rules, alpha)
    offset = None if bias is None else parameter(bias, rows, rules)
    return F.conv1d(x, filters, offset, stride, padding, dilation, groups)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    training: bool = True,
    rules: Rules = PAPER,
) -> Tensor:
    """softmax(query key^T head_dim^-1/2 + mask) value as one op: [B, H, T, d] with key, value [B, H, S, d].

    Multiplied by (S / e)^1/2 both ways in the paper (``rules.attention``), and by (1 - dropout_p)^1/2 in evaluation too
    so that its mean is that of training. ``mask`` is additive, or true where a position counts. u-muP scales the scores
    by 1 / head_dim and knows a causal mask only by ``is_causal``.
    """
    head_dim = query.shape[-1]
    factor = rules.attention(value.shape[-2], head_dim, is_causal) * math.sqrt(1.0 - dropout_p)
    active = dropout_p if training else 0.0
    scale = head_dim**rules.logit_exponent
    context = F.scaled_dot_product_attention(query, key, value, mask, active, is_causal, scale=scale)
    return scaled(context, factor, factor)


def parameter(x: Tensor, rows: int, rules: Rules, alpha: float = 1.0) -> Tensor:
    """A parameter used once for each of ``rows`` rows: ``alpha`` forward, rows^weight_exponent backward."""
    return scaled(x, alpha, _power(rows, rules.weight_exponent))


def _power(size: int, exponent: float) -> float:
    """size^exponent, for an empty tensor as if it had one row."""
    result: float = max(size, 1) ** exponent
    return result
