"""BERT and the families with its module structure: RoBERTa and ERNIE (post-LayerNorm encoders).

Sites in the paper's order (2306.12929). The whole head stays in floating point: ``cls``/``lm_head`` with its
transform, and for classification the pooler and the classifier, which the paper does not quantize either.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from qexp.models.adapters._common import Places, base_of, swap_class
from qexp.models.attention import NAME, Tap
from qexp.models.sites import AdaptedModel

MODEL_TYPES = ("bert", "roberta", "ernie")


class EmbeddingsWithTap(nn.Module):
    """The embeddings with a tap on the partial sum word + type, which exists in no module of its own."""

    word_embeddings: nn.Module
    token_type_embeddings: nn.Module
    position_embeddings: nn.Module
    LayerNorm: nn.Module
    dropout: nn.Module
    qexp: Tap
    position_ids: Tensor
    task_type_embeddings: nn.Module  # ERNIE
    padding_idx: int  # RoBERTa, and the next two
    create_position_ids_from_input_ids: Callable[[Tensor, int, int], Tensor]
    create_position_ids_from_inputs_embeds: Callable[[Tensor, int], Tensor]

    def forward(
        self,
        input_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values_length: int = 0,
        task_type_ids: Tensor | None = None,
    ) -> Tensor:
        words = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        if position_ids is None:
            position_ids = self._positions(input_ids, words, past_key_values_length)
        zeros = position_ids.new_zeros(()).expand(words.shape[:2])
        types = self.token_type_embeddings(zeros if token_type_ids is None else token_type_ids)
        total = self.qexp(words + types) + self.position_embeddings(position_ids)
        if getattr(self, "use_task_id", False):
            total = total + self.task_type_embeddings(zeros if task_type_ids is None else task_type_ids)
        return self.dropout(self.LayerNorm(total))  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped

    def _positions(self, input_ids: Tensor | None, words: Tensor, past: int) -> Tensor:
        if not hasattr(self, "create_position_ids_from_input_ids"):
            return self.position_ids[:, past : past + words.shape[1]]
        if input_ids is None:  # RoBERTa counts from padding_idx + 1, and only over real tokens
            return self.create_position_ids_from_inputs_embeds(words, self.padding_idx)
        return self.create_position_ids_from_input_ids(input_ids, self.padding_idx, past)


def adapt(model: Any) -> AdaptedModel:
    """Place qexp's parts in a BERT-like model and declare its sites."""
    base, prefix = base_of(model)
    swap_class(base.embeddings, EmbeddingsWithTap)
    if not hasattr(base.embeddings, NAME):
        base.embeddings.add_module(NAME, Tap())
    places = Places(model)
    _embeddings(places, f"{prefix}embeddings", has_tasks=getattr(base.config, "use_task_id", False))
    for index in range(len(base.encoder.layer)):
        _layer(places, base.config, index, f"{prefix}encoder.layer.{index}")
    return AdaptedModel(
        module=model,
        family=model.config.model_type,
        sites=places.sites(),
        attention=tuple(places.attention),
        linears=tuple(places.linears),
        infinity_norm_roles=("ffn_output",),
        kurtosis_roles=("ffn_output", "ffn_norm"),
    )


def _embeddings(places: Places, at: str, has_tasks: bool) -> None:
    places.weight("embeddings.token", f"{at}.word_embeddings")
    places.weight("embeddings.type", f"{at}.token_type_embeddings")
    places.add("embeddings.token_type_sum", "output", f"{at}.{NAME}", "word + type embeddings")
    places.weight("embeddings.position", f"{at}.position_embeddings")
    if has_tasks:
        places.weight("embeddings.task", f"{at}.task_type_embeddings")
    places.add("embeddings.sum", "input", f"{at}.LayerNorm", "sum of all embeddings")
    places.norm("embeddings.norm", f"{at}.LayerNorm", "LayerNorm of the embeddings: input of the first layer")


def _layer(places: Places, config: Any, index: int, at: str) -> None:
    name, heads = f"layers.{index}", config.num_attention_heads
    stream = f"layers.{index - 1}.ffn_norm" if index else "embeddings.norm"
    for part in ("query", "key", "value"):
        places.linear(f"{name}.{part}", f"{at}.attention.self.{part}", f"{part} projection of all heads", reads=stream)
    width = config.hidden_size
    places.attend(
        index, f"{at}.attention.self", heads=heads, head_dim=width // heads, width=width, context_after_gate=True
    )
    dense, carries = f"{at}.attention.output.dense", "output projection of the attention"
    places.linear(f"{name}.attention_output", dense, carries, reads=f"{name}.context", shared=False)
    places.add(
        f"{name}.attention_residual", "input", f"{at}.attention.output.LayerNorm", "layer input + attention output"
    )
    places.norm(f"{name}.attention_norm", f"{at}.attention.output.LayerNorm", "LayerNorm of that sum: FFN input")
    places.linear(f"{name}.ffn_hidden", f"{at}.intermediate.dense", None, reads=f"{name}.attention_norm")
    places.add(f"{name}.ffn_hidden", "output", f"{at}.intermediate", "first FFN layer after its activation (fused)")
    dense, carries = f"{at}.output.dense", "second FFN layer, before the residual sum"
    places.linear(f"{name}.ffn_output", dense, carries, reads=f"{name}.ffn_hidden", shared=False)
    places.add(f"{name}.ffn_residual", "input", f"{at}.output.LayerNorm", "FFN input + FFN output")
    places.norm(f"{name}.ffn_norm", f"{at}.output.LayerNorm", "LayerNorm of that sum: output of the layer")
