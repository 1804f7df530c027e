"""Masked language modelling that computes logits only where a token is to be predicted.

Some 15 % of the positions have a label. The logits of the others, one for every word of the vocabulary, count for
nothing: for BERT-base in batches of 256 x 128 they would be 4 GB.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

IGNORED = -100
"""Label of a position that predicts nothing, everywhere in transformers."""


def is_masked_lm(network: nn.Module) -> bool:
    return getattr(network, "loss_type", None) == "ForMaskedLM"


@contextmanager
def predicted_rows_only(network: Any) -> Iterator[None]:
    """Within the block, in training mode, the head of a masked language model sees the rows that have a label, [n, d].

    The loss is the same mean over the same rows, and so are all gradients, up to the order of sums; ``logits`` are
    [n, vocabulary]. A batch that predicts nothing passes as it is, and so does anything in evaluation mode.
    """
    (head,) = (part for name, part in network.named_children() if name != network.base_model_prefix)
    rows: list[Tensor] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        rows.clear()
        labels = kwargs.get("labels")
        if labels is None or not module.training:
            return None
        predicted = (labels.flatten() != IGNORED).nonzero().squeeze(1)
        if not len(predicted):
            return None
        rows.append(predicted)
        return args, {**kwargs, "labels": labels.flatten()[predicted]}

    def choose(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0].flatten(0, 1).index_select(0, rows[0]), *args[1:]) if rows else args

    handles = [
        network.register_forward_pre_hook(note, with_kwargs=True),
        head.register_forward_pre_hook(choose, prepend=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
