"""The whole model, with the initialisation that the authors' ordinary (not unit-scaled) models have."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from qexp.models.charlm.attention import RelativeAttention
from qexp.models.charlm.configuration import CharLMConfig
from qexp.models.charlm.layers import CausalConv, FanInLinear, FeedForward, ResidualLayer
from qexp.models.charlm.recurrent import InitialState, Recurrence

MIXERS: dict[str, type[nn.Module]] = {"attention": RelativeAttention, "conv": CausalConv, "rnn": Recurrence}


class Block(nn.Module):
    """A sequence mixer and a feed-forward layer, both residual."""

    def __init__(self, config: CharLMConfig, index: int):
        super().__init__()
        self.mixer = ResidualLayer(config, MIXERS[config.mixer](config), 2 * index)
        self.feed_forward = ResidualLayer(config, FeedForward(config), 2 * index + 1)

    def forward(self, hidden_states: Tensor) -> Any:
        return self.feed_forward(self.mixer(hidden_states))


class ShiftRight(nn.Module):
    """Scores [B, T, V] of the next character -> of the one at the same place; ``padding`` [V] scores the first."""

    def __init__(self, vocab_size: int):
        super().__init__()
        self.padding = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, scores: Tensor) -> Tensor:
        first = self.padding.expand(len(scores), 1, -1)
        return torch.cat([first, scores[:, :-1]], 1)


class CharLMPreTrainedModel(PreTrainedModel):  # type: ignore[misc]  # transformers is not followed by mypy
    """Uniform weights: products by Glorot's rule, or of variance 1 / fan_in, embeddings of variance 1; biases 0."""

    config_class = CharLMConfig
    base_model_prefix = "model"
    _supports_sdpa = True
    _no_split_modules: ClassVar[list[str]] = ["Block"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Conv1d):
            if isinstance(module, FanInLinear):
                _uniform(module.weight, variance=1.0 / module.in_features)
            else:
                init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            _uniform(module.weight, variance=1.0)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, InitialState):
            init.zeros_(module.state)
        elif isinstance(module, ShiftRight):
            init.zeros_(module.padding)


def _uniform(weight: Tensor, variance: float) -> None:
    bound = math.sqrt(3.0 * variance)
    init.uniform_(weight, -bound, bound)


class CharLMModel(CharLMPreTrainedModel):
    """Embedding, its LayerNorm, blocks, last LayerNorm: characters [B, T] -> hidden states [B, T, d]."""

    def __init__(self, config: CharLMConfig):
        super().__init__(config)
        width, epsilon = config.hidden_size, config.layer_norm_eps
        self.embedding = nn.Embedding(config.vocab_size, width)
        self.embedding_norm = nn.LayerNorm(width, epsilon)
        self.layers = nn.ModuleList(Block(config, index) for index in range(config.num_hidden_layers))
        self.final_norm = nn.LayerNorm(width, epsilon)
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> BaseModelOutput:
        """``attention_mask`` is not read: padding stands on the right, where a causal network never looks."""
        hidden = self.embedding_norm(self.embedding(input_ids))
        for block in self.layers:
            hidden = block(hidden)
        return BaseModelOutput(last_hidden_state=self.final_norm(hidden))

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embedding = value


class CharLMForCausalLM(CharLMPreTrainedModel):
    """The model with its readout. ``logits`` [B, T, V] score the *next* character, as in every causal network here.

    The loss shifts them right by a trainable padding vector, so that the first character has a score too.
    """

    def __init__(self, config: CharLMConfig):
        super().__init__(config)
        self.model = CharLMModel(config)
        self.readout = nn.Linear(config.hidden_size, config.vocab_size)
        self.shift = ShiftRight(config.vocab_size)
        self.post_init()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **kwargs: Any
    ) -> CausalLMOutput:
        """``labels`` [B, T]: the characters themselves, -100 where none is scored. ``kwargs`` go to the loss."""
        logits = self.readout(self.model(input_ids, attention_mask).last_hidden_state)
        loss = None
        if labels is not None:
            scores, size = self.shift(logits), self.config.vocab_size
            loss = self.loss_function(scores, labels, vocab_size=size, shift_labels=labels, **kwargs)
        return CausalLMOutput(loss=loss, logits=logits)
