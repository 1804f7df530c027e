"""ViT (pre-LayerNorm encoder of image patches), which the released DeiT checkpoints without distillation are too.

The paper quantizes everything but the last linear layer of BERT and OPT (2306.12929, section 5), so the classifier has
sites here. Its ViT code is not released: the order is OPT's, the context site lies *after* the gate as in BERT, and
pixels are quantized where the patch embedding, a linear layer over patches, reads them. The class token and position
embeddings are no tables, and reach a grid in the sum that they enter.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from qexp.models.adapters._common import Places, ResidualTaps, base_of, swap_block, swap_class
from qexp.models.attention import NAME
from qexp.models.images import mixed_loss
from qexp.models.patches import ImageNetwork, PatchEmbedding, make_linear
from qexp.models.sites import AdaptedModel

MODEL_TYPES = ("vit",)


class BlockWithTaps(nn.Module):
    """``ViTLayer`` with taps on both residual sums."""

    layernorm_before: nn.Module
    layernorm_after: nn.Module
    attention: nn.Module
    mlp: nn.Module
    dropout: nn.Module
    qexp: ResidualTaps

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        after_attention, after_ffn = self.qexp.attention_residual, self.qexp.ffn_residual
        attention = self.attention(self.layernorm_before(after_attention.split(hidden_states)), *args, **kwargs)[0]
        hidden = after_attention(self.dropout(attention), hidden_states)
        ffn = self.mlp(self.layernorm_after(after_ffn.split(hidden)))
        result: Tensor = after_ffn(self.dropout(ffn), hidden)
        return result


def adapt(model: Any) -> AdaptedModel:
    """Place qexp's parts in a ViT model and declare its sites."""
    base, prefix = base_of(model)
    # transformers would write checkpoints under ViT's older names, of which a training that goes on finds none.
    model._weight_conversions = []
    model.loss_function = mixed_loss
    swap_class(base, ImageNetwork)
    swap_class(base.embeddings.patch_embeddings, PatchEmbedding)
    make_linear(base.embeddings.patch_embeddings, base.config)
    for block in base.layers:
        swap_block(block, BlockWithTaps)
    places = Places(model)
    _embeddings(places, f"{prefix}embeddings", has_norm=base.embeddings.patch_embeddings.qexp.norm is not None)
    for index in range(len(base.layers)):
        _layer(places, base.config, index, f"{prefix}layers.{index}")
    places.norm("final_norm", f"{prefix}layernorm", "last LayerNorm: its class token is the input of the classifier")
    if isinstance(getattr(model, "classifier", None), nn.Linear):
        carries = "logits of the classes"
        places.linear("classifier", "classifier", carries, reads="final_norm", shared=False, row_ndim=1)
    return AdaptedModel(
        module=model,
        family="vit",
        sites=places.sites(),
        attention=tuple(places.attention),
        linears=tuple(places.linears),
        infinity_norm_roles=("ffn_residual",),
        kurtosis_roles=("attention_norm", "attention_output", "ffn_norm", "ffn_output", "ffn_residual", "final_norm"),
    )


def _embeddings(places: Places, at: str, has_norm: bool) -> None:
    patch = f"{at}.patch_embeddings"
    places.add("embeddings.patches", "output", f"{patch}.{NAME}.patches", "normalised pixels, patch by patch")
    module, carries = f"{patch}.projection", "patch embeddings, before class token and positions"
    places.linear("embeddings.projection", module, carries, reads="embeddings.patches", shared=False)
    if has_norm:
        places.norm("embeddings.norm", f"{patch}.{NAME}.norm", "LayerNorm of the patch embeddings")
    places.add("embeddings.sum", "input", f"{at}.dropout", "class token and patch embeddings + positions")


def _layer(places: Places, config: Any, index: int, at: str) -> None:
    name, heads, width = f"layers.{index}", config.num_attention_heads, config.hidden_size
    norm = f"{name}.attention_norm"
    places.norm(norm, f"{at}.layernorm_before", "LayerNorm of the stream: attention input")
    for part in ("query", "key", "value"):
        module, carries = f"{at}.attention.{part[0]}_proj", f"{part} projection of all heads"
        places.linear(f"{name}.{part}", module, carries, reads=norm, shared=False)
    places.attend(index, f"{at}.attention", heads=heads, head_dim=width // heads, width=width, context_after_gate=True)
    module, carries = f"{at}.attention.o_proj", "output projection of the attention"
    places.linear(f"{name}.attention_output", module, carries, reads=f"{name}.context", shared=False)
    residual = f"{at}.{NAME}"
    places.add(
        f"{name}.attention_residual", "output", f"{residual}.attention_residual", "residual stream after attention"
    )
    places.norm(f"{name}.ffn_norm", f"{at}.layernorm_after", "LayerNorm of the stream: FFN input")
    places.linear(f"{name}.ffn_hidden", f"{at}.mlp.fc1", None, reads=f"{name}.ffn_norm", shared=False)
    places.add(
        f"{name}.ffn_hidden", "output", f"{at}.mlp.activation_fn", "first FFN layer after its activation (fused)"
    )
    module, carries = f"{at}.mlp.fc2", "second FFN layer, before the residual sum"
    places.linear(f"{name}.ffn_output", module, carries, reads=f"{name}.ffn_hidden", shared=False)
    places.add(f"{name}.ffn_residual", "output", f"{residual}.ffn_residual", "residual stream after the FFN")
