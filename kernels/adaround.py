"""AdaRound (arXiv 2004.10568): learn for each weight whether it is rounded down or up, so that outputs change least.

Rounding starts soft, h(V) of a step above ``floor``, and a regulariser then pushes every h(V) to 0 or 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qexp.kernels.quantize import QParams, fake_quantize

ZETA, GAMMA = 1.1, -0.1
"""Stretch of the sigmoid in eq. 23, which lets h reach 0 and 1."""
BETA_START, BETA_END, WARM_UP = 20.0, 2.0, 0.2
"""The exponent of eq. 24 and the share of steps without regulariser, as in the authors' toolkit (AIMET)."""
ROWS_AT_ONCE = 4096
"""Rows whose error is computed at once, which bounds the memory for it."""


@dataclass(frozen=True)
class Recipe:
    """``steps`` of Adam, each on ``batch_rows`` rows drawn with replacement; ``regularization`` is lambda of eq. 21."""

    steps: int
    batch_rows: int
    learning_rate: float
    regularization: float


@dataclass(frozen=True)
class Rounding:
    """A weight [out, in] on its grid, and what it costs: mean over rows of ||target - weight x||^2."""

    weight: Tensor
    error: float
    nearest_error: float
    """The same of rounding to nearest."""


def rectified_sigmoid(v: Tensor) -> Tensor:
    """h(V) = clamp(sigmoid(V) (zeta - gamma) + gamma, 0, 1), eq. 23."""
    return (v.sigmoid() * (ZETA - GAMMA) + GAMMA).clamp(0.0, 1.0)


def initial_rounding(weight: Tensor, p: QParams) -> Tensor:
    """The V at which nothing is rounded yet: h(V) = weight / scale - floor(weight / scale)."""
    steps = weight / p.scale
    return torch.logit((steps - steps.floor() - GAMMA) / (ZETA - GAMMA))


def hard_quantize(weight: Tensor, v: Tensor, p: QParams) -> Tensor:
    """Eq. 22 with h(V) rounded to 0 or 1: on the grid. The initial V rounds to nearest."""
    codes = (weight / p.scale).floor() + (rectified_sigmoid(v) >= 0.5)
    return codes.clamp(p.low, p.high) * p.scale


def span(weight: Tensor, p: QParams) -> tuple[Tensor, Tensor]:
    """The point of the grid below each weight, and how far the one above is: 0 for weights that the grid cuts off."""
    floor = (weight / p.scale).floor()
    inside = (floor >= p.low) & (floor < p.high)
    return floor.clamp(p.low, p.high) * p.scale, inside * p.scale


def soft_weight(below: Tensor, gap: Tensor, h: Tensor) -> Tensor:
    """scale * clamp(floor(weight / scale) + h, low, high), eq. 22, for h within [0, 1]."""
    return torch.addcmul(below, gap, h)


def gradient(
    v: Tensor, below: Tensor, gap: Tensor, x: Tensor, target: Tensor, beta: float | None, lam: float
) -> Tensor:
    """d/dV of mean over rows ||target - W~ x||^2 + lam * sum(1 - |2 h(V) - 1|^beta), eq. 21 and 24.

    ``x`` [rows, in], ``target`` [rows, out], the others [out, in]; without ``beta`` there is no second term. Written
    out, since each pass over the weight counts: autograd's take twice as long.
    """
    sigmoid = v.sigmoid()
    h = (sigmoid * (ZETA - GAMMA)).add_(GAMMA).clamp_(0.0, 1.0)
    error = x @ soft_weight(below, gap, h).t() - target
    by_h = (error.t() @ x).mul_(gap).mul_(2.0 / len(x))
    away = h.mul_(2.0).sub_(1.0)
    distance = away.abs()
    undecided = distance < 1.0
    if beta is not None:
        by_h.sub_(distance.pow_(beta - 1.0).copysign_(away), alpha=2.0 * beta * lam)
    by_h.mul_(undecided).mul_(torch.addcmul(sigmoid, sigmoid, sigmoid, value=-1.0))
    return by_h.mul_(ZETA - GAMMA)


def beta_at(step: int, steps: int) -> float | None:
    """The exponent at ``step`` of ``steps``: none while warming up, then falling from 20 to 2 on half a cosine."""
    warm = WARM_UP * steps
    if step < warm:
        return None
    done = (step - warm) / (steps - warm)
    return BETA_END + 0.5 * (BETA_START - BETA_END) * (1.0 + math.cos(math.pi * done))


def learn_rounding(
    weight: Tensor, p: QParams, inputs: Tensor, targets: Tensor, recipe: Recipe, generator: torch.Generator
) -> Rounding:
    """The rounding of ``weight`` [out, in] that keeps ``inputs`` [N, in] times it near ``targets`` [N, out].

    Minimises mean over rows ||target - W~ x||^2 + lambda f_reg(V), eq. 21 (25 where the targets are another network's).
    Where rounding to nearest does at least as well over all rows, that is the answer. ``generator`` lives on the CPU,
    so that every device draws the same rows.
    """
    weight = weight.contiguous()  # the fused Adam takes V and its gradient for alike in memory
    v = initial_rounding(weight, p)
    below, gap = span(weight, p)
    optimizer = torch.optim.Adam([v], lr=recipe.learning_rate, fused=True)
    for step in range(recipe.steps):
        rows = torch.randint(len(inputs), (recipe.batch_rows,), generator=generator).to(inputs.device)
        beta = beta_at(step, recipe.steps)
        v.grad = gradient(v, below, gap, inputs[rows], targets[rows], beta, recipe.regularization)
        optimizer.step()
    return _better(fake_quantize(weight, p), hard_quantize(weight, v, p), inputs, targets)


def _better(nearest: Tensor, learnt: Tensor, inputs: Tensor, targets: Tensor) -> Rounding:
    errors = [reconstruction_error(weight, inputs, targets) for weight in (nearest, learnt)]
    return Rounding(learnt if errors[1] < errors[0] else nearest, min(errors), errors[0])


@torch.no_grad()
def reconstruction_error(weight: Tensor, inputs: Tensor, targets: Tensor) -> float:
    """Mean over rows of ||target - weight x||^2: ``weight`` [out, in], ``inputs`` [N, in], ``targets`` [N, out]."""
    total = 0.0
    for start in range(0, len(inputs), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        total += float((inputs[rows] @ weight.t() - targets[rows]).square().sum())
    return total / len(inputs)
