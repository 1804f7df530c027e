"""The patch embedding of an image network as a linear layer over patches, which a convolution of stride = kernel is."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from qexp.models.attention import NAME, Tap
from qexp.models.sources import PATCH_LAYER_NORM


class PatchProjection(nn.Linear):
    """``nn.Conv2d`` with stride = kernel on patches x [B, N, C * P * P]: the same numbers, to [B, N, width].

    The weight is [width, C * P * P] here and [width, C, P, P] in a state dict, as any loader expects it.
    """

    def __init__(self, convolution: nn.Conv2d):
        width, *patch = convolution.weight.shape
        super().__init__(convolution.weight[0].numel(), width, bias=convolution.bias is not None, device="meta")
        self.patch = tuple(patch)
        self.weight = nn.Parameter(convolution.weight.detach().flatten(1))
        self.bias = convolution.bias  # type: ignore[assignment]  # its type says Tensor, but it is a parameter
        self.train(convolution.training)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if (weight := destination.get(f"{prefix}weight")) is not None:
            destination[f"{prefix}weight"] = weight.unflatten(1, self.patch)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if (weight := state_dict.get(f"{prefix}weight")) is not None:
            state_dict[f"{prefix}weight"] = weight.flatten(1)
        super()._load_from_state_dict(state_dict, prefix, *args)


class PatchParts(nn.Module):
    """What qexp adds to a patch embedding: a tap on the patches [B, N, C * P * P], and any LayerNorm."""

    norm: nn.LayerNorm | None

    def __init__(self, config: Any):
        super().__init__()
        self.patches = Tap()
        has_norm = getattr(config, PATCH_LAYER_NORM, False)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if has_norm else None


class PatchEmbedding(nn.Module):
    """Mixin for ``ViTPatchEmbeddings``: patches, then the linear layer over them, then any LayerNorm."""

    projection: nn.Module
    patch_size: tuple[int, int]
    qexp: PatchParts

    def forward(self, pixel_values: Tensor) -> Tensor:
        embedded: Tensor = self.projection(self.qexp.patches(patches(pixel_values, *self.patch_size)))
        return embedded if self.qexp.norm is None else self.qexp.norm(embedded)


class ImageNetwork(nn.Module):
    """Mixin for ``ViTModel``: what it computes, but it does not ask for the type of its patch embedding's weight.

    An integer layer in that place has none. Pixels take the type of the position embeddings instead.
    """

    embeddings: nn.Module
    layers: nn.ModuleList
    layernorm: nn.Module
    pooler: nn.Module | None

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        hidden = self.embeddings(pixel_values.to(self.embeddings.get_parameter("position_embeddings").dtype))
        for layer in self.layers:
            hidden = layer(hidden, **kwargs)
        hidden = self.layernorm(hidden)
        pooled = None if self.pooler is None else self.pooler(hidden)
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=pooled)


def patches(pixels: Tensor, height: int, width: int) -> Tensor:
    """Pixels [B, C, H, W] as patches [B, N, C * height * width], row by row, in the order of a convolution's weight."""
    batch, channels, rows, columns = pixels.shape
    tiles = pixels.view(batch, channels, rows // height, height, columns // width, width)
    return tiles.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def make_linear(embedding: nn.Module, config: Any) -> None:
    """Give a ``ViTPatchEmbeddings`` whose class is swapped its :class:`PatchProjection` and its parts, once."""
    if not hasattr(embedding, NAME):
        convolution = embedding.projection
        assert isinstance(convolution, nn.Conv2d) and convolution.stride == convolution.kernel_size
        embedding.projection = PatchProjection(convolution)
        parts = PatchParts(config)
        embedding.add_module(NAME, parts.to(convolution.weight).train(embedding.training))
