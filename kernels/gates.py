"""Gates of gated attention (arXiv 2306.12929, eq. 5-7): one value per head and token that scales the head's output.

Every gate maps the attention module's input x: [B, T, width] to multiplier * sigmoid(logits): [B, H, T, 1], to be
multiplied with the context [B, H, T, head_dim] before the output projection.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Gate(nn.Module):
    """What the three gates share. ``output_weight`` and ``output_bias`` are the last layer's, which yields the logits.

    ``pi_init``: the gate's initial openness; it sets the output bias to logit(pi_init). None keeps the random bias of
    ``nn.Linear``, as the paper's code does for its MLP and all-heads gates.
    """

    output_weight: nn.Parameter
    output_bias: nn.Parameter

    def __init__(self, pi_init: float | None, multiplier: float):
        super().__init__()
        if pi_init is not None and not 0.0 < pi_init < 1.0:
            raise ValueError(f"pi_init must lie between 0 and 1, got {pi_init}")
        self.pi_init = pi_init
        self.multiplier = multiplier

    def logits(self, x: Tensor) -> Tensor:
        """x: [B, T, width] -> [B, T, H]."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        values = torch.sigmoid(self.logits(x)).transpose(1, 2).unsqueeze(-1)
        return values if self.multiplier == 1.0 else values * self.multiplier

    def init_for_finetuning(self, std: float) -> None:
        """Start near the ungated model: output weights ~ N(0, std), output bias logit(pi), multiplier 1 / pi.

        pi is ``pi_init``, or 0.5 where that is None. With ``std=0`` and pi = 0.5 every gate value is exactly 1. An MLP
        keeps its random hidden layer, without which no gradient would reach its output weights.
        """
        pi = 0.5 if self.pi_init is None else self.pi_init
        nn.init.normal_(self.output_weight, std=std)
        nn.init.constant_(self.output_bias, logit(pi))
        self.multiplier = 1.0 / pi

    def _reset_output(self, fan_in: int) -> None:
        _uniform(self.output_weight, fan_in)
        if self.pi_init is None:
            _uniform(self.output_bias, fan_in)
        else:
            nn.init.constant_(self.output_bias, logit(self.pi_init))

    def extra_repr(self) -> str:
        return f"weight={tuple(self.output_weight.shape)}, pi_init={self.pi_init}, multiplier={self.multiplier:g}"


class LinearGate(Gate):
    """H separate Linear(head_dim -> 1), each on its head's slice of x: H (head_dim + 1) parameters."""

    def __init__(self, heads: int, head_dim: int, pi_init: float | None = 0.5, multiplier: float = 1.0):
        super().__init__(pi_init, multiplier)
        self.output_weight = nn.Parameter(torch.empty(heads, head_dim))
        self.output_bias = nn.Parameter(torch.empty(heads))
        self._reset_output(fan_in=head_dim)

    def logits(self, x: Tensor) -> Tensor:
        # Multiply and sum: matrix-vector products per head (einsum, bmm) take several times as long on a CPU.
        by_head = x.reshape(*x.shape[:-1], *self.output_weight.shape)
        return (by_head * self.output_weight).sum(-1) + self.output_bias


class MLPGate(Gate):
    """H separate [Linear(head_dim -> hidden), ReLU, Linear(hidden -> 1)]: H (hidden (head_dim + 2) + 1) parameters."""

    def __init__(self, heads: int, head_dim: int, hidden: int, pi_init: float | None = None, multiplier: float = 1.0):
        super().__init__(pi_init, multiplier)
        self.hidden_weight = nn.Parameter(torch.empty(heads, head_dim, hidden))
        self.hidden_bias = nn.Parameter(torch.empty(heads, hidden))
        self.output_weight = nn.Parameter(torch.empty(heads, hidden))
        self.output_bias = nn.Parameter(torch.empty(heads))
        _uniform(self.hidden_weight, head_dim)
        _uniform(self.hidden_bias, head_dim)
        self._reset_output(fan_in=hidden)

    def logits(self, x: Tensor) -> Tensor:
        heads, head_dim, _ = self.hidden_weight.shape
        # Copied head by head first: the batched product over strided slices takes up to three times as long.
        by_head = x.reshape(-1, heads, head_dim).transpose(0, 1).contiguous()
        hidden = torch.relu(torch.baddbmm(self.hidden_bias.unsqueeze(1), by_head, self.hidden_weight))
        values = (hidden * self.output_weight.unsqueeze(1)).sum(-1).t() + self.output_bias
        return values.reshape(*x.shape[:-1], heads)


class AllHeadsLinearGate(Gate):
    """One Linear(width -> H), so every head's gate sees the whole input: H (width + 1) parameters."""

    def __init__(self, heads: int, width: int, pi_init: float | None = None, multiplier: float = 1.0):
        super().__init__(pi_init, multiplier)
        self.output_weight = nn.Parameter(torch.empty(heads, width))
        self.output_bias = nn.Parameter(torch.empty(heads))
        self._reset_output(fan_in=width)

    def logits(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.output_weight, self.output_bias)


def logit(probability: float) -> float:
    return math.log(probability / (1.0 - probability))


def _uniform(parameter: nn.Parameter, fan_in: int) -> None:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)), what ``nn.Linear`` starts with."""
    bound = 1.0 / math.sqrt(fan_in)
    nn.init.uniform_(parameter, -bound, bound)
