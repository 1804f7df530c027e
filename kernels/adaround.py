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


def soft_quantize(weight: Tensor, v: Tensor, p: QParams) -> Tensor:
    """scale * clamp(floor(weight / scale) + h(V), low, high), eq. 22. Identity at the initial V."""
    return _on_grid(weight, rectified_sigmoid(v), p)


def hard_quantize(weight: Tensor, v: Tensor, p: QParams) -> Tensor:
    """As :func:`soft_quantize`, with h(V) rounded to 0 or 1: on the grid. The initial V rounds to nearest."""
    return _on_grid(weight, (rectified_sigmoid(v) >= 0.5).to(weight.dtype), p)


def _on_grid(weight: Tensor, above: Tensor, p: QParams) -> Tensor:
    steps = (weight / p.scale).floor() + above
    return steps.clamp(p.low, p.high) * p.scale


def rounding_loss(v: Tensor, beta: float) -> Tensor:
    """f_reg = sum(1 - |2 h(V) - 1|^beta), eq. 24: 0 where every h is 0 or 1, one for each h of a half."""
    return (1.0 - (2.0 * rectified_sigmoid(v) - 1.0).abs().pow(beta)).sum()


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
    v = initial_rounding(weight, p).requires_grad_()
    optimizer = torch.optim.Adam([v], lr=recipe.learning_rate)
    for step in range(recipe.steps):
        rows = torch.randint(len(inputs), (recipe.batch_rows,), generator=generator).to(inputs.device)
        output = inputs[rows] @ soft_quantize(weight, v, p).t()
        loss = (output - targets[rows]).square().sum(1).mean()
        if (beta := beta_at(step, recipe.steps)) is not None:
            loss = loss + recipe.regularization * rounding_loss(v, beta)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return _better(fake_quantize(weight, p), hard_quantize(weight, v.detach(), p), inputs, targets)


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
