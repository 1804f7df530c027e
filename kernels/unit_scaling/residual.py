"""Weighted residual sums whose branch weight acts at the end of backward (arXiv 2303.11257).

y = (1 - tau)^1/2 x + tau^1/2 f(x). Inside the branch activations and gradients are unit-scaled, since tau^1/2 is
multiplied to f's output forward and to the gradient of f's input backward.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from qexp.kernels.unit_scaling.scale import scaled

TauRule = Callable[[int], float]
"""Index of a residual branch, from 0 and counting attention and feed-forward branches alike -> its tau."""


def residual_split(input: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """What the branch takes, and what skips it. tau in (0, 1] is the branch's share of the variance."""
    _check(tau)
    return scaled(input, beta=math.sqrt(tau)), input


def residual_add(branch: Tensor, skip: Tensor, tau: float) -> Tensor:
    """(1 - tau)^1/2 skip + tau^1/2 branch, with the same tau as in :func:`residual_split`; tau = 1 drops the skip."""
    _check(tau)
    if tau == 1.0:
        return branch
    return skip * math.sqrt(1.0 - tau) + scaled(branch, math.sqrt(tau))


def fixed_tau(tau: float) -> TauRule:
    """The same tau for every branch. ``ValueError`` outside (0, 1)."""
    if not 0.0 < tau < 1.0:
        raise ValueError(f"tau must lie between 0 and 1, got {tau}")
    return lambda index: tau


def running_mean_tau(index: int) -> float:
    """1 / (1 + index), so that after L branches each has the same share 1 / L; the first drops its skip."""
    return 1.0 / (1.0 + index)


def depth_tau(branches: int, multiplier: float = 1.0, attention_ratio: float = 1.0) -> TauRule:
    """u-muP's rule (2407.17465) for ``branches`` that alternate between attention (even index) and feed-forward.

    With a_ffn = multiplier (2 / (1 + ratio^2))^1/2 and a_attn = ratio a_ffn, a branch weighs t times
    its skip, t = a / (branches / 2 + sum of a^2 over earlier branches)^1/2, so tau here is t^2 / (1 + t^2).
    """
    if branches < 1 or not multiplier > 0.0 or not attention_ratio > 0.0:
        got = f"{branches}, {multiplier}, {attention_ratio}"
        raise ValueError(f"branches, multiplier and attention_ratio must be positive, got {got}")
    feed_forward = multiplier**2 * 2.0 / (1.0 + attention_ratio**2)
    attention = attention_ratio**2 * feed_forward

    def tau(index: int) -> float:
        own = feed_forward if index % 2 else attention
        earlier = (index + 1) // 2 * attention + index // 2 * feed_forward
        return own / (own + branches / 2 + earlier)

    return tau


def _check(tau: float) -> None:
    if not 0.0 < tau <= 1.0:
        raise ValueError(f"tau must lie in (0, 1], got {tau}")
