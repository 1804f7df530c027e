"""Heads: the last projection, and picking the one token of a sequence that a classifier reads.

From the last residual sum to the loss every edge is a cut-edge, so nothing here is constrained.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from qexp.kernels.unit_scaling import modules as M
from qexp.kernels.unit_scaling.scale import scaled


class PickedReadout(M.LinearReadout):
    """Logits [B, T, C] of which the network goes on with one of each sequence: the others' gradients are 0.

    Backward T^1/2, which makes up for them in the standard deviation over all positions.
    """

    def forward(self, input: Tensor) -> Tensor:
        return spread_gradient(super().forward(input))


def spread_gradient(x: Tensor) -> Tensor:
    """x [B, T, d] of which one token is read: backward T^1/2."""
    return scaled(x, beta=x.shape[1] ** 0.5)


def spread_input(reader: nn.Module) -> None:
    """``reader`` reads one token of its input [B, T, d] (BERT's pooler)."""
    reader.register_forward_pre_hook(_spread)


def _spread(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return spread_gradient(args[0]), *args[1:]


def readout(layer: nn.Linear, rules: Any, picked: bool) -> nn.Module:
    """The unit-scaled form of the last linear layer."""
    form = PickedReadout if picked else M.LinearReadout
    return form(layer.in_features, layer.out_features, layer.bias is not None, rules)
