"""Unit-scaled ops around a parameter other than a matrix: norms, embedding, bias, gain.

Forward factors are 1; a parameter's gradient gets b^-1/2 (or ``rules.weight_exponent``), b the rows it sums over.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from qexp.kernels.unit_scaling.products import parameter
from qexp.kernels.unit_scaling.rules import PAPER, Rules
from qexp.kernels.unit_scaling.scale import scaled


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    rules: Rules = PAPER,
) -> Tensor:
    """Layer norm over the last dimensions ``normalized_shape``, with gain and bias of that shape."""
    rows = input.numel() // math.prod(normalized_shape)
    gain, offset = (None if p is None else parameter(p, rows, rules) for p in (weight, bias))
    return F.layer_norm(input, list(normalized_shape), gain, offset, eps)


def rms_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
    rules: Rules = PAPER,
) -> Tensor:
    """x / rms(x) over the last dimensions ``normalized_shape``, with a gain of that shape; eps as torch's."""
    rows = input.numel() // math.prod(normalized_shape)
    return F.rms_norm(input, list(normalized_shape), None if weight is None else parameter(weight, rows, rules), eps)


def embedding(input: Tensor, weight: Tensor, padding_idx: int | None = None, rules: Rules = PAPER) -> Tensor:
    """Rows of ``weight`` [V, d] at the indices ``input`` [..] -> [.., d]. ``weight`` begins as N(0, 1).

    Its gradient is multiplied by (b / V)^-1/2 (or ``rules.weight_exponent``) for b indices: an entry that all are
    equally likely to use sums b / V rows. Entries of real text are far from equally likely.
    """
    uses = max(input.numel(), 1) / weight.shape[0]
    return F.embedding(input, scaled(weight, beta=uses**rules.weight_exponent), padding_idx)


def bias_add(input: Tensor, bias: Tensor, rules: Rules = PAPER) -> Tensor:
    """input + bias, with a bias of the shape of input's last dimensions that begins as 0."""
    return input + parameter(bias, _rows(input, bias), rules)


def multiply_gain(input: Tensor, gain: Tensor, rules: Rules = PAPER) -> Tensor:
    """input * gain, with a gain of the shape of input's last dimensions that begins as 1."""
    return input * parameter(gain, _rows(input, gain), rules)


def _rows(x: Tensor, vector: Tensor) -> int:
    """``ValueError`` unless ``vector`` has the shape of x's last dimensions."""
    if vector.dim() > x.dim() or x.shape[x.dim() - vector.dim() :] != vector.shape:
        raise ValueError(f"a parameter of shape {tuple(vector.shape)} does not fit an input of {tuple(x.shape)}")
    return x.numel() // max(vector.numel(), 1)
