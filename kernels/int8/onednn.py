"""``torch._int_mm``: the vendor's int8 product, fast and exact where the processor multiplies bytes into int32.

Without VNNI or AMX it is a scalar loop, and where oneDNN is held to older instructions it saturates without a word;
the self-test finds that out.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from qexp.kernels.int8.backends import Backend, PackedWeight


def has_amx() -> bool:
    """Whether oneDNN multiplies in AMX tiles here: the processor has them and ``ONEDNN_MAX_CPU_ISA`` allows them."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    return torch.cpu._is_amx_tile_supported() and ("AMX" in limit or limit in ("ALL", "DEFAULT"))


def _operand(codes: Tensor) -> Tensor:
    """Codes [.., K] as torch._int_mm reads them rightly.

    It takes the distance between rows from the strides, which torch leaves open where there is one row or K is 1, and
    then returns uninitialized memory without a word (pytorch issue 195066). Here they are always K, and K at least 2.
    """
    if codes.shape[-1] == 1:
        codes = functional.pad(codes, (0, 1))
    return codes.reshape(-1).view(codes.shape)


class _IntMmBackend(Backend):
    """The weight stays as it is; oneDNN reorders it in every call, which costs little."""

    products = ("aten::_int_mm",)

    def pack(self, b: Tensor) -> tuple[Tensor, ...]:
        return (_operand(b),)

    def unpack(self, tensors: Sequence[Tensor], rows: int, depth: int) -> Tensor:
        return tensors[0][:, :depth]

    def matmul(self, a: Tensor, weight: PackedWeight) -> Tensor:
        return torch._int_mm(_operand(a), weight.tensors[0].t())

    def batched_matmul(self, a: Tensor, b: Tensor) -> Tensor:
        pairs = zip(_operand(a).unbind(), _operand(b).unbind(), strict=True)
        return torch.stack([torch._int_mm(x, y.t()) for x, y in pairs])


class AmxBackend(_IntMmBackend):
    name = "amx"
    isa = "amx_int8"

    def unavailable(self) -> str | None:
        return None if has_amx() else "this processor has no AMX, or ONEDNN_MAX_CPU_ISA rules it out"


class VnniBackend(_IntMmBackend):
    name = "vnni"
    isa = "avx512_vnni"

    def unavailable(self) -> str | None:
        if has_amx():
            return "torch._int_mm uses AMX on this processor: choose amx"
        return None if torch.cpu._is_vnni_supported() else "this processor has no AVX-512 VNNI"
