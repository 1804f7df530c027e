"""Question answering: the network's start and end scores as the logits of two classifications over the tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import TokenClassifierOutput


class SpanLogits(nn.Module):
    """Mixin for a network with transformers' span head: ``logits`` [B, 2, T] as any other task has, start first.

    ``labels`` [B, 2] are the tokens of the answer's start and end. The loss is transformers', the mean of both
    cross-entropies over all T tokens of the padded batch; of several batches accumulated for one step its share.
    """

    def forward(
        self, *args: Any, labels: Tensor | None = None, num_items_in_batch: Tensor | int | None = None, **kwargs: Any
    ) -> TokenClassifierOutput:
        found = super().forward(*args, **kwargs)
        logits = torch.stack((found.start_logits, found.end_logits), dim=1)
        loss = None
        if labels is not None:
            count = labels.numel() if num_items_in_batch is None else num_items_in_batch
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum") / count
        return TokenClassifierOutput(loss, logits, found.hidden_states, found.attentions)
