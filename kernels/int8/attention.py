"""Attention whose two products, scores and context, are exact integer products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from qexp.kernels import native
from qexp.kernels.attention import stretch_and_offset
from qexp.kernels.int8.api import LARGEST_INT32, int8_matmul
from qexp.kernels.int8.backends import select
from qexp.kernels.int8.composition import codes_dtype, quantize_codes
from qexp.kernels.quantize import QParams, at_least_float32, fake_quantize

LONGEST = LARGEST_INT32 // 255**2
"""Terms a sum can have when codes less zero points are at most 255 in magnitude: 33,025."""
FUSED = ("amx", "vnni", "avx2")
"""Back ends beside which the fused operator stands; ``reference`` and ``tiled`` keep to products of their own."""


@dataclass(frozen=True, eq=False)
class AttentionGrids:
    """The grids of attention's operands, per tensor; those of the integer operands have at most 8 bits.

    ``scores`` is the grid before the mask, or None where there is none. ``ValueError`` for any other grid.
    """

    query: QParams
    key: QParams
    value: QParams
    scores: QParams | None
    probs: QParams

    def __post_init__(self) -> None:
        for p in self._operands:
            codes_dtype(p)
        for p in (*self._operands, *self._between):
            if p.scale.numel() != 1:
                raise ValueError(f"integer attention takes grids per tensor, not of shape {list(p.scale.shape)}")

    @property
    def _operands(self) -> tuple[QParams, ...]:
        return self.query, self.key, self.value, self.probs

    @property
    def _between(self) -> tuple[QParams, ...]:
        return () if self.scores is None else (self.scores,)

    @cached_property
    def tensors(self) -> list[Tensor]:
        """Scale and both ends less the zero point of query, key, value, probabilities and, if given, scores."""
        return [t for p in (*self._operands, *self._between) for t in (p.scale, p.low, p.high)]


def int8_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    grids: AttentionGrids,
    *,
    scale: float,
    mask: Tensor | None,
    probability: Callable[[Tensor], Tensor],
    stretch: tuple[float, float] | None,
    backend: str = "auto",
) -> Tensor:
    """Context float32 [B, H, T, d] of attention with two exact integer products.

    scores = float32(q k^T) * (sq sk) * scale, on their grid if they have one, plus ``mask``; probs =
    ``probability(scores)`` on their grid; context = float32(p v) * (sp sv). q, p, k, v are codes less zero points, and
    every operation on floats is rounded on its own.

    query [B, H, T, d]; key and value [B, H_kv, S, d] with H a multiple of H_kv; mask broadcasts to [B, H, T, S] and is
    added. ``stretch`` = (gamma, zeta) says that ``probability`` is the clipped softmax with these ((0, 1): the
    softmax). Then, on a CPU with the native kernels, one operator computes everything without an [T, S] tensor in
    memory; its exponential may differ from torch's in the last places, all else is the same bits. ``ValueError`` for
    shapes that do not fit, NaN or infinity in an operand, or a row of probabilities that is NaN because its mask holds
    nothing but -infinity; ``TypeError`` for a mask that is not floating point.
    """
    query, key, value = (at_least_float32(t) for t in (query, key, value))
    shape = _checked_shape(query, key, value, mask)
    if 0 in (*shape, key.shape[2]):
        return query.new_zeros((*query.shape[:3], value.shape[3]))
    mask = None if mask is None else mask.to(query.dtype).reshape((1,) * (4 - mask.dim()) + mask.shape)
    fused = stretch is not None and query.is_cpu and query.dtype == torch.float32
    if fused and select(backend).name in FUSED and native.unavailable() is None:
        assert stretch is not None
        factors = stretch_and_offset(*stretch, query.dtype)
        mask = None if mask is None else mask.expand(-1, -1, -1, shape[3])
        context: Tensor = torch.ops.qexp.int8_attention(query, key, value, mask, grids.tensors, scale, *factors)
        return context
    return _composed(query, key, value, grids, scale, mask, probability, backend)


def _composed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    grids: AttentionGrids,
    scale: float,
    mask: Tensor | None,
    probability: Callable[[Tensor], Tensor],
    backend: str,
) -> Tensor:
    """The same out of two batched products and torch's operators, for any probability function and device."""
    group = query.shape[1] // key.shape[1]
    q, p = _codes(query, grids.query, "query"), grids.probs
    k = _codes(key, grids.key, "key").repeat_interleave(group, 1)
    v = _codes(value, grids.value, "value").repeat_interleave(group, 1)
    scores = _product(q, grids.query, k, grids.key, backend).mul_(scale)
    if grids.scores is not None:
        scores = fake_quantize(scores, grids.scores)
    probs = _codes(probability(scores if mask is None else scores + mask), p, "probabilities")
    return _product(probs, p, v.transpose(2, 3), grids.value, backend)


def _product(a: Tensor, of_a: QParams, b: Tensor, of_b: QParams, backend: str) -> Tensor:
    """float32(sum_k (a - za) (b - zb)) * (sa sb) of codes a [.., M, K] and b [.., N, K].

    The terms may wrap round in int32, which the whole undoes: it is exact modulo 2^32 and fits.
    """
    sums = int8_matmul(a, b, backend)
    sums.sub_(of_b.zero_point * a.sum(-1, keepdim=True, dtype=torch.int32))
    columns = b.sum(-1, dtype=torch.int32) - b.shape[-1] * of_b.zero_point
    return sums.sub_(of_a.zero_point * columns.unsqueeze(-2)).to(torch.float32).mul_(of_a.scale * of_b.scale)


def _codes(x: Tensor, p: QParams, name: str) -> Tensor:
    try:
        return quantize_codes(x, p)
    except ValueError:
        raise ValueError(f"NaN or infinity in the {name}") from None


def _checked_shape(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[int, ...]:
    """[B, H, T, S] of the scores. ``ValueError`` if the operands do not give them."""
    operands = query, key, value
    if any(t.dim() != 4 for t in operands):
        raise ValueError(f"attention takes [B, H, T, d], not {', '.join(str(list(t.shape)) for t in operands)}")
    batch, heads, length, depth = query.shape
    keys = key.shape[2]
    if key.shape[::3] != (batch, depth) or value.shape[:3] != key.shape[:3] or heads % max(key.shape[1], 1):
        raise ValueError(f"query {list(query.shape)}, key {list(key.shape)} and value {list(value.shape)} do not fit")
    if max(keys, depth) > LONGEST:
        raise ValueError(f"{keys} keys of depth {depth} are too many for exact int32 sums: at most {LONGEST}")
    shape = batch, heads, length, keys
    if mask is not None:
        _check_mask(mask, shape)
    return shape


def _check_mask(mask: Tensor, shape: tuple[int, ...]) -> None:
    if not mask.is_floating_point():
        raise TypeError(f"the mask is added to the scores, so it must be floating point, not {mask.dtype}")
    if mask.dim() > 4 or any(m not in (1, s) for m, s in zip(mask.shape[::-1], shape[::-1], strict=False)):
        raise ValueError(f"mask {list(mask.shape)} does not broadcast to scores {list(shape)}")
