"""The back end that every machine has: int64 products, slow and plain."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qexp.kernels.int8.backends import Backend, PackedWeight


@torch.library.custom_op("qexp::int8_reference", mutates_args=())
def int8_reference(a: Tensor, b: Tensor) -> Tensor:
    """int32 [.., M, N] of codes a [.., M, K] and b [.., N, K], multiplied in int64."""
    return (a.long() @ b.long().transpose(-1, -2)).to(torch.int32)


class ReferenceBackend(Backend):
    name = "reference"
    isa = "int64"
    products = ("qexp::int8_reference",)

    def unavailable(self) -> str | None:
        return None

    def pack(self, b: Tensor) -> tuple[Tensor, ...]:
        return (b.contiguous(),)

    def unpack(self, tensors: Sequence[Tensor], rows: int, depth: int) -> Tensor:
        return tensors[0]

    def matmul(self, a: Tensor, weight: PackedWeight) -> Tensor:
        sums: Tensor = int8_reference(a, weight.tensors[0])
        return sums

    def batched_matmul(self, a: Tensor, b: Tensor) -> Tensor:
        sums: Tensor = int8_reference(a, b)
        return sums
