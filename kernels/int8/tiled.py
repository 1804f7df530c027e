"""Exact int8 without a compiler: oneDNN's int8 linear layer on weights cut into tiles that cannot saturate.

Without VNNI, oneDNN adds two neighbouring products of uint8 and int8 in int16. With weights within +-64 no such sum
leaves int16 (2 * 255 * 64 = 32640), so a weight is split as ``w = near + far``, both within +-64; ``far`` is mostly
zero and keeps only its rows that are not. The vendor's layer returns float32, exact while sums stay below 2^24, so K is
cut where a row could pass that.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qexp.kernels.int8.backends import Backend, PackedWeight

LARGEST_WEIGHT = 64
LARGEST_FLOAT_SUM = 2**24
PARTS = 3
"""Tensors of a span of K: its ends, the rows whose far part is not zero, and the two parts in oneDNN's layout."""


@torch.library.custom_op("qexp::int8_tiled", mutates_args=())
def int8_tiled(a: Tensor, packed: Sequence[Tensor], rows: int) -> Tensor:
    """int32 [M, rows] of uint8 codes a [M, K] and a weight packed by :func:`pack`."""
    result = torch.zeros(a.shape[0], rows, dtype=torch.int32)
    for ends, far_rows, weight in zip(*(packed[i::PARTS] for i in range(PARTS)), strict=True):
        first, last = ends.tolist()
        sums = _vendor_linear(a[:, first:last].contiguous(), weight).to(torch.int32)
        result += sums[:, :rows]
        result.index_add_(1, far_rows, sums[:, rows:])
    return result


def _vendor_linear(a: Tensor, weight: Tensor) -> Tensor:
    one, zero = torch.ones(1), torch.zeros(1, dtype=torch.int32)
    result: Tensor = torch.ops.onednn.qlinear_pointwise(
        a, 1.0, 0, weight, one, zero, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return result


def pack(b: Tensor) -> list[Tensor]:
    """An int8 weight [N, K] as spans of K, each three tensors (see :data:`PARTS`)."""
    packed = []
    for first, last in _spans(b, 0, b.shape[1]):
        weight = b[:, first:last]
        near = weight.clamp(-LARGEST_WEIGHT, LARGEST_WEIGHT)
        far = weight - near
        far_rows = far.any(1).nonzero().flatten()
        both = torch.ops.onednn.qlinear_prepack(torch.cat([near, far[far_rows]]).contiguous(), None)
        packed += [torch.tensor([first, last]), far_rows, both]
    return packed


def _spans(b: Tensor, first: int, last: int) -> list[tuple[int, int]]:
    """Ends of the pieces of K in which no sum of a row with codes up to 255 reaches 2^24, by halving."""
    largest = 255 * int(b[:, first:last].long().abs().sum(1).max())
    if largest < LARGEST_FLOAT_SUM:
        return [(first, last)]
    middle = (first + last) // 2
    return _spans(b, first, middle) + _spans(b, middle, last)


class TiledBackend(Backend):
    name = "tiled"
    isa = "vendor int8, tiled"
    products = ("qexp::int8_tiled",)

    def unavailable(self) -> str | None:
        return None if torch._C._has_mkldnn else "this build of torch has no oneDNN"

    def pack(self, b: Tensor) -> tuple[Tensor, ...]:
        return tuple(pack(b))

    def unpack(self, tensors: Sequence[Tensor], rows: int, depth: int) -> Tensor:
        b = torch.zeros(rows, depth, dtype=torch.int8)
        for ends, far_rows, weight in zip(*(tensors[i::PARTS] for i in range(PARTS)), strict=True):
            first, last = ends.tolist()
            near, far = weight.to_dense().t().split([rows, len(far_rows)])
            b[:, first:last] = near
            b[far_rows, first:last] += far
        return b

    def matmul(self, a: Tensor, weight: PackedWeight) -> Tensor:
        unsigned = a if a.dtype == torch.uint8 else a.view(torch.uint8) ^ 128
        result: Tensor = int8_tiled(unsigned, weight.tensors, weight.rows)
        return result if a.dtype == torch.uint8 else result.sub_(128 * weight.column_sums)
