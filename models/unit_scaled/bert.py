"""Where BERT's residual sums, embeddings and pooler are. Its code adds plain tensors, so modules get new forwards."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from qexp.models.adapters._common import swap_class
from qexp.models.unit_scaled.embeddings import average_terms, look_up_every_position
from qexp.models.unit_scaled.heads import spread_input
from qexp.models.unit_scaled.residual import WeightedSum


class Attention(nn.Module):
    """Mixin for ``BertAttention``: self-attention reads the stream through its residual sum's split."""

    self: nn.Module
    output: nn.Module
    residual: WeightedSum

    def forward(self, stream: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
        context, probabilities = self.self(self.residual.split(stream), *args, **kwargs)
        return self.output(context, stream), probabilities


class Output(nn.Module):
    """Mixin for ``BertSelfOutput`` and ``BertOutput``: the end of a branch, its residual sum, and the LayerNorm."""

    dense: nn.Module
    dropout: nn.Module
    LayerNorm: nn.Module
    residual: WeightedSum

    def forward(self, branch: Tensor, stream: Tensor) -> Tensor:
        result: Tensor = self.LayerNorm(self.residual(self.dropout(self.dense(branch)), stream))
        return result


class Layer(nn.Module):
    """Mixin for ``BertLayer``: the feed-forward branch reads the stream through its residual sum's split."""

    intermediate: nn.Module
    output: Output

    def feed_forward_chunk(self, stream: Tensor) -> Tensor:
        result: Tensor = self.output(self.intermediate(self.output.residual.split(stream)), stream)
        return result


def place_sums(block: Any, attention: WeightedSum, ffn: WeightedSum) -> None:
    """Put the residual sums of one ``BertLayer`` in place."""
    swap_class(block, Layer)
    swap_class(block.attention, Attention)
    for part, residual in ((block.attention, attention), (block.attention.output, attention), (block.output, ffn)):
        part.residual = residual
    for output in (block.attention.output, block.output):
        swap_class(output, Output)


def scale_ends(base: Any) -> None:
    """The sum of three embeddings, and the pooler, which reads the first token."""
    look_up_every_position(base.embeddings)
    average_terms(base.embeddings.LayerNorm, 3)
    if base.pooler is not None:
        spread_input(base.pooler)
