"""Llama (pre-RMSNorm decoder with rotary positions and grouped keys and values). The paper has no Llama.

Sites follow its OPT order, with these of our own: ``query_rotated`` and ``key_rotated``, what the score product really
multiplies and what must lie on a grid to do it in integers; ``gate_activation`` (SiLU fused with its projection, one
site after it, like GELU in BERT), ``up``, and their product ``ffn_hidden``, the input of ``down_proj``. The context
site lies *after* the gate: it is the input of the output projection. ``lm_head`` and ``score`` stay in floating point.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from qexp.models.adapters._common import Places, ResidualTaps, base_of, swap_block
from qexp.models.attention import NAME
from qexp.models.sites import AdaptedModel

MODEL_TYPES = ("llama",)


class BlockWithTaps(nn.Module):
    """``LlamaDecoderLayer`` with taps on both residual sums."""

    input_layernorm: nn.Module
    self_attn: nn.Module
    post_attention_layernorm: nn.Module
    mlp: nn.Module
    qexp: ResidualTaps

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        after_attention, after_ffn = self.qexp.attention_residual, self.qexp.ffn_residual
        normed = self.input_layernorm(after_attention.split(hidden_states))
        hidden = after_attention(self.self_attn(hidden_states=normed, **kwargs)[0], hidden_states)
        ffn = self.mlp(self.post_attention_layernorm(after_ffn.split(hidden)))
        result: Tensor = after_ffn(ffn, hidden)
        return result


def adapt(model: Any) -> AdaptedModel:
    """Place qexp's parts in a Llama model and declare its sites."""
    base, prefix = base_of(model)
    for block in base.layers:
        swap_block(block, BlockWithTaps)
    places = Places(model)
    places.weight("embeddings.token", f"{prefix}embed_tokens")
    for index in range(len(base.layers)):
        _attention(places, base.config, index, f"{prefix}layers.{index}")
        _ffn(places, index, f"{prefix}layers.{index}")
    places.norm("final_norm", f"{prefix}norm", "last RMSNorm: input of the head")
    return AdaptedModel(
        module=model,
        family="llama",
        sites=places.sites(),
        attention=tuple(places.attention),
        linears=tuple(places.linears),
        infinity_norm_roles=("ffn_residual",),
        kurtosis_roles=("attention_norm", "attention_output", "ffn_norm", "ffn_output", "ffn_residual", "final_norm"),
    )


def _attention(places: Places, config: Any, index: int, at: str) -> None:
    name, heads, width = f"layers.{index}", config.num_attention_heads, config.hidden_size
    places.norm(f"{name}.attention_norm", f"{at}.input_layernorm", "RMSNorm of the stream: attention input")
    for part in ("query", "key", "value"):
        module, carries = f"{at}.self_attn.{part[0]}_proj", f"{part} projection of all heads"
        places.linear(f"{name}.{part}", module, carries, reads=f"{name}.attention_norm", shared=False)
    head_dim = getattr(config, "head_dim", None) or width // heads
    places.attend(
        index,
        f"{at}.self_attn",
        heads=heads,
        head_dim=head_dim,
        width=width,
        context_after_gate=True,
        operands=("query_rotated", "key_rotated", "value"),
    )
    module, carries = f"{at}.self_attn.o_proj", "output projection of the attention"
    places.linear(f"{name}.attention_output", module, carries, reads=f"{name}.context", shared=False)
    places.add(
        f"{name}.attention_residual", "output", f"{at}.{NAME}.attention_residual", "residual stream after attention"
    )


def _ffn(places: Places, index: int, at: str) -> None:
    name, norm = f"layers.{index}", f"layers.{index}.ffn_norm"
    places.norm(f"{name}.ffn_norm", f"{at}.post_attention_layernorm", "RMSNorm of the stream: FFN input")
    places.linear(f"{name}.gate_activation", f"{at}.mlp.gate_proj", None, reads=norm, shared=False)
    places.add(f"{name}.gate_activation", "output", f"{at}.mlp.act_fn", "gate projection after SiLU (fused)")
    places.linear(f"{name}.up", f"{at}.mlp.up_proj", "up projection", reads=norm, shared=False)
    places.add(f"{name}.ffn_hidden", "input", f"{at}.mlp.down_proj", "SiLU(gate) * up: input of the down projection")
    module, carries = f"{at}.mlp.down_proj", "down projection, before the residual sum"
    places.linear(f"{name}.ffn_output", module, carries, reads=f"{name}.ffn_hidden", shared=False)
    places.add(f"{name}.ffn_residual", "output", f"{at}.{NAME}.ffn_residual", "residual stream after the FFN")
