"""GPT-2 (pre-LayerNorm decoder). The paper has no GPT-2: sites follow its OPT order, except for two places.

Queries, keys and values leave one ``Conv1D`` together (``c_attn``, weight [in, out]), so they have one weight site and
one output site, ``qkv``. The context site lies *after* the gate, as in the paper's BERT: it is the input of the output
projection, which must lie on a grid for an integer product. ``lm_head`` and ``score`` stay in floating point.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from qexp.models.adapters._common import Places, ResidualTaps, base_of, swap_block
from qexp.models.attention import NAME
from qexp.models.sites import AdaptedModel

MODEL_TYPES = ("gpt2",)


class BlockWithTaps(nn.Module):
    """``GPT2Block`` with taps on both residual sums."""

    ln_1: nn.Module
    attn: nn.Module
    ln_2: nn.Module
    mlp: nn.Module
    qexp: ResidualTaps

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        after_attention, after_ffn = self.qexp.attention_residual, self.qexp.ffn_residual
        attention = self.attn(self.ln_1(after_attention.split(hidden_states)), *args, **kwargs)[0]
        hidden = after_attention(attention, hidden_states)
        result: Tensor = after_ffn(self.mlp(self.ln_2(after_ffn.split(hidden))), hidden)
        return result


def adapt(model: Any) -> AdaptedModel:
    """Place qexp's parts in a GPT-2 model and declare its sites."""
    base, prefix = base_of(model)
    for block in base.h:
        swap_block(block, BlockWithTaps)
    places = Places(model)
    places.weight("embeddings.token", f"{prefix}wte")
    places.weight("embeddings.position", f"{prefix}wpe")
    places.add("embeddings.sum", "input", f"{prefix}drop", "token + position embeddings")
    for index in range(len(base.h)):
        _layer(places, base.config, index, f"{prefix}h.{index}")
    places.norm("final_norm", f"{prefix}ln_f", "last LayerNorm: input of the head")
    return AdaptedModel(
        module=model,
        family="gpt2",
        sites=places.sites(),
        attention=tuple(places.attention),
        linears=tuple(places.linears),
        infinity_norm_roles=("ffn_residual",),
        kurtosis_roles=("attention_norm", "attention_output", "ffn_norm", "ffn_output", "ffn_residual", "final_norm"),
    )


def _layer(places: Places, config: Any, index: int, at: str) -> None:
    name, heads, width = f"layers.{index}", config.num_attention_heads, config.hidden_size
    places.norm(f"{name}.attention_norm", f"{at}.ln_1", "LayerNorm of the stream: attention input")
    module, carries = f"{at}.attn.c_attn", "query, key and value projections side by side"
    places.linear(f"{name}.qkv", module, carries, reads=f"{name}.attention_norm", shared=False)
    places.attend(
        index,
        f"{at}.attn",
        heads=heads,
        head_dim=width // heads,
        width=width,
        context_after_gate=True,
        operands=("qkv", "qkv", "qkv"),
    )
    module, carries = f"{at}.attn.c_proj", "output projection of the attention"
    places.linear(f"{name}.attention_output", module, carries, reads=f"{name}.context", shared=False)
    residual = f"{at}.{NAME}"
    places.add(
        f"{name}.attention_residual", "output", f"{residual}.attention_residual", "residual stream after attention"
    )
    places.norm(f"{name}.ffn_norm", f"{at}.ln_2", "LayerNorm of the stream: FFN input")
    places.linear(f"{name}.ffn_hidden", f"{at}.mlp.c_fc", None, reads=f"{name}.ffn_norm", shared=False)
    places.add(f"{name}.ffn_hidden", "output", f"{at}.mlp.act", "first FFN layer after its activation (fused)")
    module, carries = f"{at}.mlp.c_proj", "second FFN layer, before the residual sum"
    places.linear(f"{name}.ffn_output", module, carries, reads=f"{name}.ffn_hidden", shared=False)
    places.add(f"{name}.ffn_residual", "output", f"{residual}.ffn_residual", "residual stream after the FFN")
