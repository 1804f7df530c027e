"""Starts the Triton kernels on torch tensors. Needs Triton; imported by functions of triton.py, at first use."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from qexp.kernels.int8.triton_kernels import INTERPRETED, product_kernel, quantize_kernel
from qexp.kernels.quantize import QParams

QUANTIZE_BLOCK = 2048
EPILOGUE: dict[str, Any] = {
    **dict.fromkeys(("column_sums", "row_sums", "input_zero", "weight_zero")),
    **dict.fromkeys(("scale", "bias", "output_scale", "output_zero")),
    **dict.fromkeys(("depth", "shift", "qmin", "qmax", "ZEROS", "SCALES"), 0),
    "CODES": False,
}
"""Arguments of the kernel for a plain product; a layer replaces those that it needs."""


def quantize(x: Tensor, codes: Tensor, p: QParams, shift: int) -> Tensor:
    """Fill codes [M, padded] with those of x [M, K] less ``shift``; int32 [1] that is 1 if x holds NaN or infinity."""
    (rows, depth), padded = x.shape, codes.shape[1]
    not_finite = torch.zeros(1, dtype=torch.int32, device=x.device)
    block = min(QUANTIZE_BLOCK, triton.next_power_of_2(padded))
    quantize_kernel[rows, triton.cdiv(padded, block)](
        x, codes, not_finite, p.scale, p.zero_point, depth, padded, p.qmin, p.qmax, shift, BLOCK=block
    )
    return not_finite


def multiply(a: Tensor, b: Tensor, out: Tensor, **epilogue: Any) -> None:
    """Fill out [B, M, N] from contiguous int8 a [B, M, K] and b [B, N, K]; K a multiple of 16, both 16-byte aligned."""
    (batch, m, n), k = out.shape, a.shape[2]
    pointers = not _reads_descriptors(a.device)
    operands = [t if pointers else TensorDescriptor(t, [t.shape[0] * t.shape[1], k], [k, 1], [1, 1]) for t in (a, b)]

    def programs(meta: dict[str, Any]) -> tuple[int]:
        tiles = batch * triton.cdiv(m, meta["BLOCK_M"]) * triton.cdiv(n, meta["BLOCK_N"])
        return (min(tiles, _processors(out.device)) if meta["RESIDENT"] else tiles,)

    product_kernel[programs](
        *operands,
        out,
        batch=batch,
        m=m,
        n=n,
        k=k,
        size=_size_class(batch * m, n, k),
        POINTERS=pointers,
        enable_fp_fusion=False,
        **(EPILOGUE | epilogue),
    )


def _size_class(*sizes: int) -> int:
    """One number for all sizes with the same powers of two, which are tuned together."""
    return int("".join(f"{size.bit_length():02}" for size in sizes))


def _reads_descriptors(device: torch.device) -> bool:
    """Whether the GPU has a unit that loads whole tiles (Hopper and later); older ones get pointers in the kernel."""
    return INTERPRETED or torch.cuda.get_device_capability(device) >= (9, 0)


def _processors(device: torch.device) -> int:
    return 3 if INTERPRETED else torch.cuda.get_device_properties(device).multi_processor_count
