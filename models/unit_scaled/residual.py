"""Weighted residual sums in the place of a block's plain ones."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from qexp.kernels.unit_scaling import functional as U
from qexp.models.adapters._common import ResidualSum


class WeightedSum(ResidualSum):
    """(1 - tau)^1/2 x + tau^1/2 f(x), tau in (0, 1] (:mod:`~qexp.kernels.unit_scaling.residual`)."""

    def __init__(self, tau: float):
        super().__init__()
        self.tau = tau

    def split(self, stream: Tensor) -> Tensor:
        return U.residual_split(stream, self.tau)[0]

    def forward(self, branch: Tensor, stream: Tensor) -> Tensor:
        return U.residual_add(branch, stream, self.tau)

    def extra_repr(self) -> str:
        return f"tau={self.tau:.4g}"


def weigh_taps(block: Any, attention: WeightedSum, ffn: WeightedSum) -> None:
    """Put both sums into a pre-norm block, whose adapter made places for them."""
    block.qexp.attention_residual, block.qexp.ffn_residual = attention, ffn
