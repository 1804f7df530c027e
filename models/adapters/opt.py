"""OPT (decoder; pre-LayerNorm, and post-LayerNorm where ``do_layer_norm_before=False``).

Sites in the paper's order (2306.12929): the context site lies *before* the gate, queries are scaled after
their site. ``lm_head`` and ``score`` stay in floating point. FFN statistics are per token, as the paper's code flattens
a batch to [B * T, d] there.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from qexp.models.adapters._common import Places, ResidualTaps, base_of, swap_block
from qexp.models.attention import NAME
from qexp.models.sites import AdaptedModel

MODEL_TYPES = ("opt",)


class BlockWithTaps(nn.Module):
    """``OPTDecoderLayer`` with taps on both residual sums."""

    self_attn: nn.Module
    self_attn_layer_norm: nn.Module
    final_layer_norm: nn.Module
    fc1: nn.Module
    fc2: nn.Module
    activation_fn: nn.Module
    qexp: ResidualTaps
    do_layer_norm_before: bool
    dropout: float

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        before = self.do_layer_norm_before
        x = self.self_attn_layer_norm(hidden_states) if before else hidden_states
        attention = self._dropped(self.self_attn(hidden_states=x, **kwargs)[0])
        hidden = self.qexp.attention_residual(attention, hidden_states)
        if not before:
            hidden = self.self_attn_layer_norm(hidden)
        x = self.final_layer_norm(hidden) if before else hidden
        ffn = self._dropped(self.fc2(self.activation_fn(self.fc1(x))))
        hidden = self.qexp.ffn_residual(ffn, hidden)
        return hidden if before else self.final_layer_norm(hidden)  # type: ignore[no-any-return]  # untyped __call__

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, p=self.dropout, training=self.training)


def adapt(model: Any) -> AdaptedModel:
    """Place qexp's parts in an OPT model and declare its sites."""
    base, prefix = base_of(model)
    decoder, at, places = base.decoder, f"{prefix}decoder", Places(model)
    for block in decoder.layers:
        swap_block(block, BlockWithTaps)
    pre_norm = decoder.config.do_layer_norm_before
    block_output = "ffn_residual" if pre_norm else "ffn_norm"
    _embeddings(places, decoder, at)
    for index in range(len(decoder.layers)):
        _layer(places, decoder.config, index, f"{at}.layers.{index}", pre_norm)
    last = f"layers.{len(decoder.layers) - 1}.{block_output}"
    if decoder.final_layer_norm is not None:
        last = "final_norm"
        places.norm(last, f"{at}.final_layer_norm", "last LayerNorm: input of the head")
    if decoder.project_out is not None:
        module, carries = f"{at}.project_out", "last hidden state in the width of the embeddings"
        places.linear("final_projection", module, carries, reads=last)
    kurtosis = ("attention_norm", "attention_output", "ffn_norm", "ffn_output", block_output, "final_norm")
    return AdaptedModel(
        module=model,
        family="opt",
        sites=places.sites(),
        attention=tuple(places.attention),
        linears=tuple(places.linears),
        infinity_norm_roles=(block_output,),
        kurtosis_roles=tuple(dict.fromkeys(kurtosis)),
    )


def _embeddings(places: Places, decoder: Any, at: str) -> None:
    places.weight("embeddings.token", f"{at}.embed_tokens")
    if decoder.project_in is not None:
        module, carries = f"{at}.project_in", "token embeddings in the width of the model"
        places.linear("embeddings.projection", module, carries, reads="embeddings.token_weight")
    places.weight("embeddings.position", f"{at}.embed_positions")
    places.add("embeddings.sum", "input", f"{at}.layers.0", "token + position embeddings")


def _layer(places: Places, config: Any, index: int, at: str, pre_norm: bool) -> None:
    _attention(places, config, index, at, pre_norm)
    name, residual = f"layers.{index}", f"{at}.{NAME}.ffn_residual"
    if pre_norm:
        places.norm(f"{name}.ffn_norm", f"{at}.final_layer_norm", "LayerNorm of the stream: FFN input", row_ndim=1)
    norm = f"{name}.{'ffn_norm' if pre_norm else 'attention_norm'}"
    places.linear(f"{name}.ffn_hidden", f"{at}.fc1", None, reads=norm, shared=not pre_norm)
    places.add(f"{name}.ffn_hidden", "output", f"{at}.activation_fn", "first FFN layer after its activation (fused)", 1)
    places.linear(
        f"{name}.ffn_output",
        f"{at}.fc2",
        "second FFN layer, before the residual sum",
        reads=f"{name}.ffn_hidden",
        shared=False,
        row_ndim=1,
    )
    places.add(f"{name}.ffn_residual", "output", residual, "residual stream after the FFN")
    if not pre_norm:
        places.norm(f"{name}.ffn_norm", f"{at}.final_layer_norm", "LayerNorm of that sum: output of the layer")


def _attention(places: Places, config: Any, index: int, at: str, pre_norm: bool) -> None:
    name, heads, width = f"layers.{index}", config.num_attention_heads, config.hidden_size
    norm = (f"{name}.attention_norm", f"{at}.self_attn_layer_norm")
    stream = f"layers.{index - 1}.ffn_norm" if index else "embeddings.sum"
    if pre_norm:
        places.norm(*norm, "LayerNorm of the stream: attention input")
        stream = norm[0]
    for part in ("query", "key", "value"):
        module, carries = f"{at}.self_attn.{part[0]}_proj", f"{part} projection of all heads"
        places.linear(f"{name}.{part}", module, carries, reads=stream, shared=not pre_norm)
    places.attend(
        index,
        f"{at}.self_attn",
        heads=heads,
        head_dim=width // heads,
        width=width,
        context_after_gate=False,
        query_factor=(width // heads) ** -0.5,
    )
    module, carries = f"{at}.self_attn.out_proj", "output projection of the attention"
    places.linear(f"{name}.attention_output", module, carries, reads=f"{name}.context", shared=False)
    places.add(
        f"{name}.attention_residual", "output", f"{at}.{NAME}.attention_residual", "residual stream after attention"
    )
    if not pre_norm:
        places.norm(*norm, "LayerNorm of that sum: FFN input")
