"""The layers that only the character models have, and where their residual sums are."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from qexp.kernels.unit_scaling import functional as U
from qexp.kernels.unit_scaling import modules as M
from qexp.kernels.unit_scaling.products import parameter
from qexp.kernels.unit_scaling.residual import TauRule
from qexp.kernels.unit_scaling.rules import Rules
from qexp.kernels.unit_scaling.scale import scaled
from qexp.models.adapters._common import swap_class
from qexp.models.charlm import attention, layers, network, recurrent
from qexp.models.unit_scaled.layers import UNIT_SCALED, Make
from qexp.models.unit_scaled.loss import UnitScaledLoss
from qexp.models.unit_scaled.residual import WeightedSum


class Sinusoids(attention.Sinusoids):
    """Times 2^1/2, the inverse of their standard deviation, and once for each sequence of the batch (not copied)."""

    def forward(self, length: int, like: Tensor) -> Tensor:
        """[B, T, frequencies]."""
        waves = super().forward(length, like) * math.sqrt(2.0)
        return waves.expand(len(like), -1, -1)


class PositionLinear(M.Linear):
    """The projection of positions, one and the same for all sequences: computed once, [B, T, f] -> [T, d].

    Nothing but its weight lies behind it, so its output is on a cut-edge: backward B^-1/2 for the sum over sequences.
    """

    def forward(self, input: Tensor) -> Tensor:
        return scaled(super().forward(input[0]), beta=len(input) ** -0.5)


class InitialState(nn.Module):
    """The trainable state ahead of the first character, 0 at first, whose gradient sums over a batch's rows."""

    def __init__(self, width: int, rules: Rules):
        super().__init__()
        self.state, self.rules = nn.Parameter(torch.zeros(width)), rules

    def forward(self, rows: int) -> Tensor:
        return parameter(self.state, rows, self.rules).expand(rows, -1)


class ShiftRight(network.ShiftRight):
    """The padding vector's gradient, too, sums over a batch's rows."""

    def __init__(self, vocab_size: int, rules: Rules):
        super().__init__(vocab_size)
        self.rules = rules

    def forward(self, scores: Tensor) -> Tensor:
        first = parameter(self.padding, len(scores), self.rules).expand(len(scores), 1, -1)
        return torch.cat([first, scores[:, :-1]], 1)


class HighwayCell(nn.Module):
    """Mixin: (1 - u) h + u tanh(c) with the unit-scaled tanh. A gate u of unit scale would not stay between 0 and 1."""

    gates: M.Linear
    rebias: float

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        candidate, update = self.gates(torch.cat([x, hidden], -1)).chunk(2, -1)
        return torch.lerp(hidden, U.tanh(candidate, self.gates.rules), torch.sigmoid(update - self.rebias))


class Recurrence(nn.Module):
    """Mixin: the gates are used once for each character."""

    cell: HighwayCell

    def forward(self, x: Tensor) -> Tensor:
        self.cell.gates.uses = x.shape[1]
        result: Tensor = super().forward(x)
        return result


class Split(nn.Module):
    """What the branch takes, and what skips it."""

    def __init__(self, tau: float):
        super().__init__()
        self.tau = tau

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return U.residual_split(x, self.tau)


class ShiftedLoss(UnitScaledLoss):
    """Mixin: scores are shifted right, so that the first character has one too, instead of labels to the left."""

    shift: nn.Module

    def _aligned(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return self.shift(logits), labels


LAYERS: dict[type[nn.Module], Make] = {
    layers.FanInLinear: UNIT_SCALED[nn.Linear],
    attention.Sinusoids: lambda layer, rules: Sinusoids(layer.frequencies, layer.max_period),
    recurrent.InitialState: lambda layer, rules: InitialState(layer.state.numel(), rules),
    network.ShiftRight: lambda layer, rules: ShiftRight(layer.padding.numel(), rules),
}


def place_sums(block: Any, mixer: WeightedSum, ffn: WeightedSum) -> None:
    """Put the residual sums of one block in place, and what is particular to its mixer."""
    for layer, total in ((block.mixer, mixer), (block.feed_forward, ffn)):
        layer.split, layer.add = Split(total.tau), total
    branch = block.mixer.branch
    if isinstance(branch, attention.RelativeAttention):
        branch.position.__class__ = PositionLinear  # type: ignore[assignment]  # it is an M.Linear by now
    if isinstance(branch, recurrent.Recurrence):
        swap_class(branch.cell, HighwayCell)
        swap_class(branch, Recurrence)


def own_tau(config: Any) -> TauRule | None:
    """The rule of the configuration's ``tau``; None where it asks for plain sums."""
    return None if config.tau is None else config.tau_of
