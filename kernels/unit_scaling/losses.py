"""Losses with torch's values and unit-scaled gradients.

A gradient's factor is on the loss, one number, from where the backward pass takes it to every logit.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from qexp.kernels.quantize import at_least_float32
from qexp.kernels.unit_scaling.scale import scaled

Reduction = Literal["mean", "sum"]


def cross_entropy(input: Tensor, target: Tensor, ignore_index: int = -100, reduction: Reduction = "mean") -> Tensor:
    """torch's cross-entropy of logits [.., s] and classes [..], computed in at least float32: 0-dim.

    Backward, the mean is undone by the number of all positions, ignored ones too (as the authors do), and the logits'
    gradient multiplied by s / (s - 1)^1/2, its exact inverse standard deviation at equal logits. ``ValueError`` with
    fewer than 2 classes.
    """
    classes = input.shape[-1]
    if classes < 2:
        raise ValueError(f"cross-entropy needs 2 or more classes in the last dimension, got shape {tuple(input.shape)}")
    beta = _terms(target, reduction) * classes / math.sqrt(classes - 1)
    logits = at_least_float32(input).reshape(-1, classes)
    loss = F.cross_entropy(logits, target.reshape(-1), ignore_index=ignore_index, reduction=reduction)
    return scaled(loss, beta=beta)


def mse_loss(input: Tensor, target: Tensor, reduction: Reduction = "mean") -> Tensor:
    """torch's squared error of two tensors of one shape, in at least float32: 0-dim.

    Backward, the mean is undone and both gradients multiplied by 8^-1/2, the inverse of 2 std(a - b) for unit normal
    a and b.
    """
    beta = _terms(input, reduction) * 8.0**-0.5
    a, b = (at_least_float32(x) for x in (input, target))
    return scaled(F.mse_loss(a, b, reduction=reduction), beta=beta)


def _terms(x: Tensor, reduction: Reduction) -> int:
    if reduction not in ("mean", "sum"):
        raise ValueError(f"unknown reduction {reduction!r}: mean or sum")
    return x.numel() if reduction == "mean" else 1
