"""Rules that make a group of ideal factors one factor, where an edge of the graph is no cut-edge.

A cut-edge is one without which the forward graph falls apart. On every other edge the op that consumes it must use
beta = alpha, or gradients that are summed where paths meet would be weighted wrongly (arXiv 2303.11257).
"""

from __future__ import annotations

import math
from collections.abc import Callable

Constraint = Callable[..., tuple[float, ...]]
"""(alpha, beta_1, ..., beta_l) -> the factors to use, as many."""


def geometric_mean(alpha: float, *betas: float) -> tuple[float, ...]:
    """The paper's rule: everything is (alpha * beta_1 * ... * beta_l)^(1 / (l + 1))."""
    factors = (alpha, *betas)
    return (math.prod(factors) ** (1.0 / len(factors)),) * len(factors)


def to_output(alpha: float, *betas: float) -> tuple[float, ...]:
    """The later library's rule: everything is alpha, so that outputs are exactly unit-scaled."""
    return (alpha,) * (1 + len(betas))


def none(alpha: float, *betas: float) -> tuple[float, ...]:
    """Every factor is its own: only for cut-edges, such as the chain from the last residual sum to the loss."""
    return (alpha, *betas)


CONSTRAINTS: dict[str, Constraint] = {"geometric_mean": geometric_mean, "to_output": to_output, "none": none}
