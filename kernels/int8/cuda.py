"""``torch._int_mm`` on a GPU: the vendor's int8 product, exact, for shapes that are padded until it takes them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from qexp.kernels.int8.backends import Backend, PackedWeight, pack_with

FEWEST_ROWS = 32
MULTIPLE = 16
"""The product wants more than 16 rows and N and K in multiples of 8; a row of whole 16 bytes is loaded fastest."""
OLDEST = (7, 5)


def unavailable_gpu() -> str | None:
    """Why there is no GPU that multiplies int8 into int32 here, or None."""
    if not torch.cuda.is_available():
        return "torch sees no CUDA device here (its CPU build sees none either)"
    if torch.cuda.get_device_capability() < OLDEST:
        return f"this GPU has no int8 tensor cores: compute capability {OLDEST[0]}.{OLDEST[1]} or later has"
    return None


def gpu_isa() -> str:
    """The architecture whose instructions multiply, for instance ``sm_90``."""
    return "sm_{}{}".format(*torch.cuda.get_device_capability())


def signed_codes(codes: Tensor, depth: int) -> Tensor:
    """Codes [.., K] as contiguous, aligned int8 [.., depth]: uint8 less 128, then zeros up to ``depth``."""
    signed = codes if codes.dtype == torch.int8 else (codes ^ 128).view(torch.int8)
    padded = F.pad(signed, (0, depth - signed.shape[-1])) if depth != signed.shape[-1] else signed.contiguous()
    return padded if padded.data_ptr() % MULTIPLE == 0 else padded.clone()


def padded_size(size: int) -> int:
    """The next multiple of 16."""
    return -(-size // MULTIPLE) * MULTIPLE


class CudaBackend(Backend):
    name = "cuda"
    device = "cuda"
    products = ("aten::_int_mm",)

    def unavailable(self) -> str | None:
        return unavailable_gpu()

    @property
    def isa(self) -> str:
        return gpu_isa()

    def pack(self, b: Tensor) -> tuple[Tensor, ...]:
        rows, depth = b.shape
        return (F.pad(signed_codes(b, padded_size(depth)), (0, 0, 0, padded_size(rows) - rows)),)

    def unpack(self, tensors: Sequence[Tensor], rows: int, depth: int) -> Tensor:
        return tensors[0][:rows, :depth].contiguous()

    def matmul(self, a: Tensor, weight: PackedWeight) -> Tensor:
        codes = signed_codes(a, weight.tensors[0].shape[1])
        codes = F.pad(codes, (0, 0, 0, max(0, FEWEST_ROWS - len(codes))))
        sums = torch._int_mm(codes, weight.tensors[0].t())[: len(a), : weight.rows]
        # What the shift by 128 took off an unsigned a is 128 times the column sums.
        return sums.contiguous() if a.dtype == torch.int8 else sums + 128 * weight.column_sums

    def batched_matmul(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.stack([self.matmul(x, pack_with(self, y)) for x, y in zip(a.unbind(), b.unbind(), strict=True)])
