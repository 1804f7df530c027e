"""LayerNorms and embedding tables in dynamic fixed point, by ``kernels/fixed_point``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from qexp.kernels.fixed_point.embedding import embedding, embedding_gradient
from qexp.kernels.fixed_point.layernorm import layer_norm, layer_norm_gradients
from qexp.kernels.fixed_point.linear import Arithmetic
from qexp.models.adapters._common import restore_class, swap_class
from qexp.models.fixed_point import naming, seed_for


class FixedPointLayerNorm(nn.Module):
    """Mixin for ``nn.LayerNorm`` over its last axis, with a gain."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    eps: float
    arithmetic: Arithmetic
    qexp_name: str

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).float().contiguous()
        y: Tensor = _LayerNorm.apply(rows, self.weight, self.bias, self)  # type: ignore[no-untyped-call]
        return y.to(x.dtype).view(x.shape)


class FixedPointEmbedding(nn.Module):
    """Mixin for ``nn.Embedding``."""

    weight: nn.Parameter
    padding_idx: int | None
    arithmetic: Arithmetic
    qexp_name: str

    def forward(self, ids: Tensor) -> Tensor:
        y: Tensor = _Embedding.apply(ids.reshape(-1), self.weight, self)  # type: ignore[no-untyped-call]
        return y.to(self.weight.dtype).view(*ids.shape, y.shape[-1])


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, bias: Tensor | None, layer: FixedPointLayerNorm) -> Tensor:
        with naming(f"the input or gain of {layer.qexp_name}"):
            seed = seed_for(layer.arithmetic.forward_rounding)
            y, ctx.saved = layer_norm(x, gain.float(), bias, layer.eps, layer.arithmetic, seed)
        ctx.layer, ctx.has_bias = layer, bias is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        arithmetic = ctx.layer.arithmetic
        with naming(f"the gradient of {ctx.layer.qexp_name}"):
            seed = seed_for(arithmetic.gradient_rounding)
            dx, dgain, dbias = layer_norm_gradients(gradient.float().contiguous(), ctx.saved, arithmetic, seed)
        return dx, dgain, dbias if ctx.has_bias else None, None


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, table: Tensor, layer: FixedPointEmbedding) -> Tensor:
        with naming(f"the table of {layer.qexp_name}"):
            y, ctx.saved = embedding(ids, table.float(), layer.arithmetic, seed_for(layer.arithmetic.forward_rounding))
        ctx.layer = layer
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        layer = ctx.layer
        with naming(f"the gradient of {layer.qexp_name}"):
            seed = seed_for(layer.arithmetic.gradient_rounding)
            found = embedding_gradient(
                gradient.float().contiguous(), ctx.saved, layer.arithmetic, layer.padding_idx, seed
            )
        return None, found, None


MIXINS: dict[type[nn.Module], type[nn.Module]] = {
    nn.LayerNorm: FixedPointLayerNorm,
    nn.Embedding: FixedPointEmbedding,
}


def install_norms(network: nn.Module, kind: type[nn.Module], arithmetic: Arithmetic) -> tuple[str, ...]:
    """Let the LayerNorms or the embeddings (``kind``) of a network compute so, in place; their names.

    A subclass with a ``forward`` of its own (OPT's positions) stays as it is, and so does a LayerNorm without a gain.
    """
    found = [(n, m) for n, m in network.named_modules() if getattr(type(m), "forward", None) is kind.forward]
    found = [(n, m) for n, m in found if getattr(m, "weight", None) is not None]
    for name, layer in found:
        swap_class(layer, MIXINS[kind])
        layer.arithmetic, layer.qexp_name = arithmetic, name
    return tuple(name for name, _ in found)


def freeze_norms(network: nn.Module) -> None:
    """Round to nearest from now on."""
    for layer in network.modules():
        if isinstance(layer, FixedPointLayerNorm | FixedPointEmbedding):
            layer.arithmetic = replace(layer.arithmetic, forward_rounding="nearest")


def remove_norms(network: nn.Module) -> None:
    """Make ordinary float layers of all of them again, in place."""
    for layer in network.modules():
        for mixin in MIXINS.values():
            restore_class(layer, mixin)
