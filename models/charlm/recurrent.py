"""A recurrent highway layer (1607.03474, one micro-layer, coupled gates), as the authors of 2303.11257 have it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qexp.models.charlm.configuration import CharLMConfig
from qexp.models.charlm.layers import FanInLinear


class HighwayCell(nn.Module):
    """(1 - u) h + u tanh(c) with [c, u] = ``gates``([x, h]) and u = sigmoid(u - rebias)."""

    def __init__(self, config: CharLMConfig):
        super().__init__()
        self.rebias = config.rebias
        self.gates = FanInLinear(2 * config.hidden_size, 2 * config.hidden_size)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """[B, d] and [B, d] -> [B, d]."""
        candidate, update = self.gates(torch.cat([x, hidden], -1)).chunk(2, -1)
        return torch.lerp(hidden, torch.tanh(candidate), torch.sigmoid(update - self.rebias))


class InitialState(nn.Module):
    """The trainable state ahead of the first character: ``state`` [d], 0 at first, for every row of a batch."""

    def __init__(self, config: CharLMConfig):
        super().__init__()
        self.state = nn.Parameter(torch.zeros(config.hidden_size))

    def forward(self, rows: int) -> Tensor:
        return self.state.expand(rows, -1)


class Recurrence(nn.Module):
    """The cell from left to right over [B, T, d]; every state is an output."""

    def __init__(self, config: CharLMConfig):
        super().__init__()
        self.initial = InitialState(config)
        self.cell = HighwayCell(config)

    def forward(self, x: Tensor) -> Tensor:
        hidden, states = self.initial(len(x)), []
        for step in x.unbind(1):
            hidden = self.cell(step, hidden)
            states.append(hidden)
        return torch.stack(states, 1)
