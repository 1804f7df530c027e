"""The layers of an integer model. Between layers flow floats that lie on their sites' grids; inside are codes.

So the networks of Hugging Face run unmodified, and every boundary is where the simulated quantizer stood. Quantizers
stay in the places of their sites; a layer borrows those that it needs, the same objects.

Weights are packed for one back end, so an integer network stays on the device that it was made on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from qexp.kernels.int8 import PackedWeight, int8_linear, pack_weight
from qexp.kernels.int8.attention import AttentionGrids, int8_attention
from qexp.kernels.quantize import QParams, dequantize, quantize
from qexp.kernels.quantizers import Quantizer
from qexp.models.attachment import WEIGHT, naming

BORROWED = "borrowed"
"""Name of the submodule with the quantizers that a layer uses but that stand, and are saved, at their own sites."""


def code_shift(p: QParams) -> int:
    """What is taken off a weight's codes so that int8 holds them: 128 on a grid up to 255, else 0."""
    return 128 if p.qmax > 127 else 0


def weight_codes(weight: Tensor, p: QParams) -> Tensor:
    """The int8 codes, less :func:`code_shift`, of a weight that lies on grid ``p``.

    ``ValueError`` if it does not lie there: its codes would stand for other numbers.
    """
    codes = quantize(weight, p)
    if not torch.equal(dequantize(codes, p), weight):
        raise ValueError("the weight does not lie on its grid")
    return (codes - code_shift(p)).to(torch.int8)


def weight_values(codes: Tensor, p: QParams) -> Tensor:
    """The numbers that stored codes stand for: bit for bit those that :func:`weight_codes` was given."""
    return dequantize(codes.to(torch.int32) + code_shift(p), p)


class IntegerLinear(nn.Module):
    """A linear layer as an exact product of codes: x [.., K] to float32 [.., N], see :func:`int8_linear`.

    ``codes`` is int8 [N, K]; there is no float copy of the weight. ``quantizers``: ``input``, and ``output`` where the
    output is quantized in the same pass. A NaN or infinity in x is a ``UserError`` that names ``input_site``.
    """

    weight_quantizer: Quantizer
    weight_zero_point: Tensor | None
    bias: nn.Parameter | None

    def __init__(
        self,
        codes: Tensor,
        bias: Tensor | None,
        weight_quantizer: Quantizer,
        quantizers: Mapping[str, Quantizer],
        input_site: str,
        backend: str,
    ):
        super().__init__()
        self.out_features, self.in_features = codes.shape
        self.packed: PackedWeight = pack_weight(codes, backend)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach(), requires_grad=False))
        self.add_module(WEIGHT, weight_quantizer)
        self.borrowed = nn.ModuleDict(dict(quantizers))
        self.input_site = input_site
        p = weight_quantizer.qparams
        zero_point = (p.zero_point - code_shift(p)).flatten()
        self.register_buffer("weight_zero_point", zero_point if zero_point.any() else None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        grids = _grids(self.borrowed)
        with naming(self.input_site):
            return int8_linear(
                x,
                self.packed,
                grids["input"],
                self.weight_quantizer.qparams.scale,
                self.bias,
                grids.get("output"),
                self.weight_zero_point,
            )

    @property
    def weight_count(self) -> int:
        """Numbers in the weight."""
        return self.out_features * self.in_features

    @property
    def stored_bytes(self) -> int:
        """Bytes of the codes, as the back end keeps them."""
        return self.packed.nbytes

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.packed.unpack()

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, backend={self.packed.backend}"


def _grids(quantizers: nn.ModuleDict) -> dict[str, QParams]:
    return {name: quantizer.qparams for name, quantizer in quantizers.items() if isinstance(quantizer, Quantizer)}


class IntegerEmbedding(nn.Module):
    """Mixin for an ``nn.Embedding`` whose ``weight`` holds int8 codes: the rows looked up become floats again."""

    weight: nn.Parameter
    weight_quantizer: Quantizer

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return weight_values(super().forward(*args, **kwargs), self.weight_quantizer.qparams)

    @property
    def weight_count(self) -> int:
        """Numbers in the table."""
        return self.weight.numel()

    @property
    def stored_bytes(self) -> int:
        """Bytes of the codes."""
        return self.weight.nbytes


class IntegerAttention(nn.Module):
    """Both products of one attention module in integers, see :func:`int8_attention`.

    ``quantizers``: ``query``, ``key``, ``value``, ``probs``, and ``scores`` where these are quantized. ``query_factor``
    is what the query was multiplied with behind its site: its grid is stretched by as much.
    """

    def __init__(self, quantizers: Mapping[str, Quantizer], query_factor: float, site: str, backend: str):
        super().__init__()
        self.borrowed = nn.ModuleDict(dict(quantizers))
        self.query_factor, self.site, self.backend = query_factor, site, backend
        self._grids: AttentionGrids | None = None

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scale: float,
        probability: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Context [B, H, T, d] of ``query`` [B, H, T, d], ``key`` and ``value`` [B, H_kv, S, d]; mask as added."""
        with naming(self.site):
            return int8_attention(
                query,
                key,
                value,
                self._grids or self._made_grids(),
                scale=scale,
                mask=mask,
                probability=probability,
                stretch=getattr(probability, "stretch", None),
                backend=self.backend,
            )

    def _made_grids(self) -> AttentionGrids:
        """The operands' grids as they enter the products; kept, since they keep what the kernel makes of them."""
        found = _grids(self.borrowed)
        if self.query_factor != 1.0:
            found["query"] = replace(found["query"], scale=found["query"].scale * self.query_factor)
        scores = found.pop("scores", None)
        self._grids = AttentionGrids(scores=scores, **found)
        return self._grids

    def extra_repr(self) -> str:
        return f"query_factor={self.query_factor:g}, backend={self.backend}"
