"""Where GPT-2's embeddings are."""

from __future__ import annotations

from typing import Any

from qexp.conf.errors import UserError
from qexp.models.unit_scaled.embeddings import average_terms, look_up_every_position


def scale_ends(base: Any) -> None:
    """The sum of token and position embeddings. Raises ``UserError`` for scores that shrink with the layer's index."""
    if base.config.scale_attn_by_inverse_layer_idx:
        raise UserError("h.0.attn: scale_attn_by_inverse_layer_idx scales attention scores: unit scaling needs false")
    look_up_every_position(base)
    average_terms(base.drop, 2)
