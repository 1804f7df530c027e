"""Residual layers, and two of the branches in them: feed-forward and causal convolution.

Where a branch leaves the stream and where it comes back are modules of their own, so that a method that weighs the
branch otherwise, or scales its gradient there, replaces only these.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from qexp.models.charlm.configuration import CharLMConfig


class ResidualSplit(nn.Module):
    """x -> (what the branch takes, what skips it): here both are x."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class ResidualAdd(nn.Module):
    """(branch, skip) -> (1 - tau)^1/2 skip + tau^1/2 branch, or their sum where tau is None; tau = 1 drops the skip."""

    def __init__(self, tau: float | None):
        super().__init__()
        self.tau = tau

    def forward(self, branch: Tensor, skip: Tensor) -> Tensor:
        if self.tau is None:
            return skip + branch
        if self.tau == 1.0:
            return branch
        return math.sqrt(1.0 - self.tau) * skip + math.sqrt(self.tau) * branch


class ResidualLayer(nn.Module):
    """``split``, [``norm``,] ``branch``, ``add`` [, ``norm``] on a stream [B, T, d]. ``norm`` is None without one."""

    def __init__(self, config: CharLMConfig, branch: nn.Module, index: int):
        super().__init__()
        self.post = config.norm == "post"
        self.split = ResidualSplit()
        self.norm = None if config.norm == "none" else nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.branch = branch
        self.add = ResidualAdd(config.tau_of(index))

    def forward(self, x: Tensor) -> Tensor:
        inside, skip = self.split(x)
        if self.norm is not None and not self.post:
            inside = self.norm(inside)
        total: Tensor = self.add(self.branch(inside), skip)
        return self.norm(total) if self.norm is not None and self.post else total


class FanInLinear(nn.Linear):
    """A linear layer that begins with variance 1 / fan_in: the authors' fused projections, and that of positions."""


class FeedForward(nn.Module):
    """[B, T, d] -> [B, T, d] through ``intermediate_size`` ReLUs."""

    def __init__(self, config: CharLMConfig):
        super().__init__()
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = nn.ReLU()
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Any:
        return self.down(self.activation(self.up(x)))


class CausalConv(nn.Module):
    """Grouped convolution over [B, T, d] that sees the present and ``kernel_size - 1`` earlier places, then a ReLU."""

    def __init__(self, config: CharLMConfig):
        super().__init__()
        self.earlier = config.kernel_size - 1
        width = config.hidden_size
        self.conv = nn.Conv1d(width, width, config.kernel_size, groups=config.groups)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        channels_first = F.pad(x.transpose(1, 2), (self.earlier, 0))
        mixed: Tensor = self.activation(self.conv(channels_first))
        return mixed.transpose(1, 2)
