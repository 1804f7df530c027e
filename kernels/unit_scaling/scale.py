"""The one building block of unit scaling: different constants forward and backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def scaled(x: Tensor, alpha: float = 1.0, beta: float = 1.0) -> Tensor:
    """``alpha * x`` whose backward is ``beta * gradient``, not ``alpha * gradient`` (arXiv 2303.11257).

    An op is unit-scaled by ``alpha`` on its output and a ``beta`` on each input, so that a gradient meets beta after
    it has left the op. Shape and dtype are x's; alpha = beta = 1 is x itself.
    """
    if alpha == beta:
        return x if alpha == 1.0 else x * alpha
    result: Tensor = _Scaled.apply(x, alpha, beta)  # type: ignore[no-untyped-call]
    return result


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: float, beta: float) -> Tensor:
        ctx.beta = beta
        return x.view_as(x) if alpha == 1.0 else x * alpha

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient if ctx.beta == 1.0 else gradient * ctx.beta, None, None
