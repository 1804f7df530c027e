"""Our own AVX2 kernels (``kernels/native``): exact on full 8-bit codes without VNNI, with the layer fused in one op."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qexp.kernels import native
from qexp.kernels.int8.backends import Backend, LinearSpec, PackedWeight
from qexp.kernels.quantize import QParams


class Avx2Backend(Backend):
    name = "avx2"
    isa = "avx2"
    products = ("qexp::int8_gemm", "qexp::int8_gemm_batched", "qexp::int8_linear")

    def unavailable(self) -> str | None:
        return native.unavailable()

    def pack(self, b: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.ops.qexp.int8_pack(b.contiguous()))

    def unpack(self, tensors: Sequence[Tensor], rows: int, depth: int) -> Tensor:
        b: Tensor = torch.ops.qexp.int8_unpack(tensors)
        return b

    def matmul(self, a: Tensor, weight: PackedWeight) -> Tensor:
        sums: Tensor = torch.ops.qexp.int8_gemm(a, weight.tensors)
        return sums

    def batched_matmul(self, a: Tensor, b: Tensor) -> Tensor:
        sums: Tensor = torch.ops.qexp.int8_gemm_batched(a, b.contiguous())
        return sums

    def linear(self, x: Tensor, spec: LinearSpec) -> Tensor | None:
        p, output = spec.input, spec.output
        if any(g is not None and max(g.scale.numel(), g.zero_point.numel()) > 1 for g in (p, output)):
            return None
        y: Tensor = torch.ops.qexp.int8_linear(
            x,
            spec.weight.tensors,
            *_scalars(p),
            spec.scale,
            spec.zero_point,
            spec.bias,
            *((None, 0, 0, 0) if output is None else _scalars(output)),
            spec.codes,
        )
        return y


def _scalars(p: QParams) -> tuple[float, int, int, int]:
    return p.scale.item(), int(p.zero_point), p.qmin, p.qmax
