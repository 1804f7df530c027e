"""Causal attention with relative positions in the manner of Transformer-XL, as the authors of 2303.11257 have it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from qexp.models.charlm.configuration import CharLMConfig
from qexp.models.charlm.layers import FanInLinear

MASKED = -3e4
"""Score of a later place: a number of FP16 too. (The authors saw FP16 models look ahead past -1e3.)"""


class Sinusoids(nn.Module):
    """Number of places back 0 .. T - 1 -> [T, frequencies]: pairs of sine and cosine, periods 2 to ``max_period``."""

    def __init__(self, frequencies: int, max_period: int):
        super().__init__()
        self.frequencies, self.max_period = frequencies, max_period

    def forward(self, length: int, like: Tensor) -> Tensor:
        """In the type and on the device of ``like``."""
        index = torch.arange(self.frequencies, device=like.device)
        rate = math.pi * (2.0 / self.max_period) ** ((index // 2) / (self.frequencies // 2 - 1))
        places = torch.arange(length, device=like.device)[:, None]
        return torch.sin(rate * places + math.pi / 2 * (index % 2)).to(like.dtype)


class AttentionFunction(nn.Module):
    """The attention function that the configuration names, with the signature that transformers gives all of them."""

    def forward(
        self, module: RelativeAttention, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, **kwargs: Any
    ) -> Tensor:
        """query, key, value [B, H, T, d] and an additive mask [B, H, T, T] -> context [B, T, H, d]."""
        name = module.config._attn_implementation
        function = ALL_ATTENTION_FUNCTIONS.get_interface(name, sdpa_attention_forward)
        context: Tensor = function(module, query, key, value, mask, **kwargs)[0]
        return context


class RelativeAttention(nn.Module):
    """softmax((q k + q r) head_dim^-1/2) v, with r of how far the key lies back: [B, T, d] -> [B, T, d].

    Queries, keys and values are one tensor. The authors give a bias to queries alone; those of keys and values, which
    ``nn.Linear`` has too, change nothing that the softmax and the output's bias do not.
    """

    def __init__(self, config: CharLMConfig):
        super().__init__()
        self.config = config
        self.heads, width = config.num_attention_heads, config.hidden_size
        self.scaling, self.is_causal = (width // self.heads) ** -0.5, True
        self.qkv = FanInLinear(width, 3 * width)
        self.sinusoids = Sinusoids(config.frequencies, config.max_period)
        self.position = FanInLinear(config.frequencies, width, bias=False)
        self.attend = AttentionFunction()
        self.output = nn.Linear(width, width)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Any:
        query, key, value = (self._by_head(part) for part in self.qkv(hidden_states).chunk(3, -1))
        mask = self._relative_mask(query, self.scaling)
        context = self.attend(self, query, key, value, mask, scaling=self.scaling, **kwargs)
        return self.output(context.flatten(2))

    def _by_head(self, x: Tensor) -> Tensor:
        """[.., T, H * d] -> [.., H, T, d]."""
        return x.view(*x.shape[:-1], self.heads, -1).transpose(-3, -2)

    def _relative_mask(self, query: Tensor, scaling: float) -> Tensor:
        """What is added to the scores: query times relative position, and MASKED where the key lies ahead."""
        length = query.shape[-2]
        positions = self._by_head(self.position(self.sinusoids(length, query)))
        scores = places_of_distances(query @ positions.transpose(-2, -1) * scaling)
        ahead = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
        return scores.masked_fill(ahead, MASKED)


def places_of_distances(scores: Tensor) -> Tensor:
    """scores [.., T, T] by distance -> by place: result[.., i, j] = scores[.., i, i - j] for j <= i, else arbitrary.

    Transformer-XL's way (1901.02860, appendix B): rows that are padded by T and cut one later each are shifted.
    """
    length = scores.shape[-1]
    padded = F.pad(scores.flip(-1), (0, length)).flatten(-2)
    shifted = padded[..., :-length].reshape(*scores.shape[:-2], length, 2 * length - 1)
    return shifted[..., length - 1 :]
