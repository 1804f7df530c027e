"""Probability functions of attention."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def clipped_softmax(x: Tensor, gamma: float, zeta: float = 1.0, dim: int = -1) -> Tensor:
    """clip((zeta - gamma) * softmax(x) + gamma, 0, 1): a softmax that reaches exactly 0 and 1 (2306.12929, eq. 4).

    x: scores after the additive mask, any shape. ``gamma <= 0``, ``zeta >= 1``; gamma = 0 with zeta = 1 is the softmax,
    bit for bit. Half precision is computed in float32. Clipped entries get no gradient; rows are not renormalised.
    """
    if not gamma <= 0.0 or not zeta >= 1.0:
        raise ValueError(f"clipped softmax needs gamma <= 0 and zeta >= 1, got gamma={gamma}, zeta={zeta}")
    probabilities = torch.softmax(x, dim, dtype=torch.promote_types(x.dtype, torch.float32))
    if gamma != 0.0 or zeta != 1.0:
        stretch, offset = stretch_and_offset(gamma, zeta, probabilities.dtype)
        # hardtanh is clip with no gradient at the ends, faster than clamp's; in place it keeps only its result.
        probabilities = F.hardtanh((probabilities * stretch).add_(offset), 0.0, 1.0, inplace=True)
    return probabilities.to(x.dtype)


def stretch_and_offset(gamma: float, zeta: float, dtype: torch.dtype) -> tuple[float, float]:
    """zeta - gamma and gamma as numbers of ``dtype``, such that probabilities of 0 and 1 stay exactly these.

    So the offset is what is left of zeta after the stretch was rounded (gamma within 6e-8 in float32), never above 0.
    """
    stretch = torch.tensor(zeta - gamma, dtype=dtype).item()
    return stretch, min(zeta - stretch, 0.0)


def gamma_from_alpha(alpha: float, length: int) -> float:
    """gamma = -alpha / T with T the configured maximum sequence length, not a batch's (2306.12929, section 5.2)."""
    if not alpha >= 0.0 or length < 1:
        raise ValueError(f"gamma = -alpha / length needs alpha >= 0 and length >= 1, got {alpha} and {length}")
    return -alpha / length
