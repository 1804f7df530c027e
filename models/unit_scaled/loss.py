"""The loss of a unit-scaled network: the ordinary value, and a gradient of the logits of standard deviation 1."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qexp.kernels.unit_scaling import functional as U
from qexp.models.predicted import IGNORED

CAUSAL = ("ForCausalLM", None)
"""transformers' names for the loss of causal networks: it knows none for GPT-2, and then takes that."""


class UnitScaledLoss(nn.Module):
    """Mixin for a network with a head: its own logits, with the loss from :mod:`~qexp.kernels.unit_scaling.losses`."""

    loss_type: str | None
    config: Any

    def forward(self, *args: Any, labels: Tensor | None = None, **kwargs: Any) -> Any:
        predicted = kwargs.pop("num_items_in_batch", None)
        output = super().forward(*args, **kwargs)
        if labels is None:
            return output
        # A compiled graph of logits and loss together would take a gradient for each, zeros for the logits, and add it.
        torch._dynamo.graph_break()
        return type(output)(**{**output, "loss": self._loss(output.logits, labels, predicted)})

    def _loss(self, logits: Tensor, labels: Tensor, predicted: Tensor | int | None) -> Tensor:
        if getattr(self.config, "problem_type", None) == "regression":
            return U.mse_loss(logits.squeeze(-1), labels.to(logits.dtype))
        scores, labels = self._aligned(logits, labels)
        loss = U.cross_entropy(scores, labels, IGNORED)
        return loss if predicted is None else _share(loss, labels, predicted)

    def _aligned(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and the class that each is of: causal networks score at t the label of t + 1."""
        if self.loss_type in CAUSAL:
            labels = F.pad(labels, (0, 1), value=IGNORED)[..., 1:]
        return logits, labels


def _share(loss: Tensor, labels: Tensor, predicted: Tensor | int) -> Tensor:
    """What this batch adds to the mean over all ``predicted`` labels of the batches accumulated for one step.

    Its value only: the gradient stays that of this batch alone, as unit-scaled as without accumulation.
    """
    value = loss.detach() * (labels != IGNORED).sum() / predicted
    return loss + (value - loss.detach())
