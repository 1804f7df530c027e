"""What differs between families: where residual sums and embeddings are, and layers that only one of them has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from qexp.kernels.unit_scaling.residual import TauRule
from qexp.models.unit_scaled import bert, charlm, gpt2
from qexp.models.unit_scaled.layers import Make
from qexp.models.unit_scaled.loss import UnitScaledLoss
from qexp.models.unit_scaled.residual import WeightedSum, weigh_taps


@dataclass(frozen=True)
class Family:
    """How networks of one family are converted."""

    place_sums: Callable[[Any, WeightedSum, WeightedSum], None]
    """(block, sum behind attention or what stands for it, sum behind the feed-forward branch)."""
    scale_ends: Callable[[Any], None] = lambda base: None
    """What lies before the first block of the body, and behind its last."""
    layers: Mapping[type[nn.Module], Make] = field(default_factory=dict)
    """Forms of the family's own layers."""
    loss: type[UnitScaledLoss] = UnitScaledLoss
    classifies_every_token: bool = False
    """Whether a classifier's logits are made of all tokens, one of which is then picked."""
    own_tau: Callable[[Any], TauRule | None] = lambda config: None
    """The residual rule that a configuration asks for, where the ordinary network weighs its sums too."""


FAMILIES = {
    "bert": Family(bert.place_sums, bert.scale_ends),
    "gpt2": Family(weigh_taps, gpt2.scale_ends, classifies_every_token=True),
    "llama": Family(weigh_taps, classifies_every_token=True),
    "charlm": Family(charlm.place_sums, layers=charlm.LAYERS, loss=charlm.ShiftedLoss, own_tau=charlm.own_tau),
}
"""Families that can be converted."""
