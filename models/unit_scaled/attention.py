"""Attention as one unit-scaled op, on top of the one attention function that every family uses."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from qexp.kernels.unit_scaling.rules import Rules
from qexp.models.sites import AdaptedModel, AttentionInfo
from qexp.models.surgery import claim


class ContextScale(nn.Module):
    """The factor of attention as one op, forward and backward alike, on the context [B, H, T, d].

    ``rules.attention`` of the number of keys, times (1 - p)^1/2 for the dropout p of probabilities, in evaluation too
    (:func:`~qexp.kernels.unit_scaling.products.attention`).
    """

    def __init__(self, rules: Rules, head_dim: int, causal: bool, dropout: float):
        super().__init__()
        self.rules, self.head_dim, self.causal, self.dropout = rules, head_dim, causal, dropout

    def forward(self, context: Tensor, keys: int) -> Tensor:
        factor = self.rules.attention(keys, self.head_dim, self.causal) * math.sqrt(1.0 - self.dropout)
        return context * factor


def scale_attention(model: AdaptedModel, info: AttentionInfo, rules: Rules, owner: str) -> None:
    """Give one attention module the factors of ``rules``: on its scores, and on its context.

    Raises ``UserError`` where another method changed its probabilities or gated its context, whose scale then differs.
    """
    for slot in ("probability", "gate"):
        parts, attention = claim(model, info, slot, owner)
    module: Any = attention
    module.scaling = info.head_dim**rules.logit_exponent
    parts.rescale = ContextScale(rules, info.head_dim, module.is_causal, _dropout_of(module))


def _dropout_of(attention: Any) -> float:
    """GPT-2, BERT and Llama keep it in three ways."""
    for name in ("attn_dropout", "dropout", "attention_dropout"):
        if (found := getattr(attention, name, None)) is not None:
            return float(getattr(found, "p", found))
    return 0.0
