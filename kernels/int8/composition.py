"""The integer linear layer out of its parts, for back ends that do not have it in one operator."""

from __future__ import annotations

import torch
from torch import Tensor

from qexp.kernels import native
from qexp.kernels.int8.backends import Backend, LinearSpec, PackedWeight
from qexp.kernels.quantize import QParams, at_least_float32, dequantize, quantize


def codes_dtype(p: QParams) -> torch.dtype:
    """Storage of a grid's codes: uint8 for [0, 2^b - 1], int8 for a signed grid. ``ValueError`` beyond 8 bits."""
    if 0 <= p.qmin and p.qmax <= 255:
        return torch.uint8
    if -128 <= p.qmin and p.qmax <= 127:
        return torch.int8
    raise ValueError(f"integer execution takes grids of at most 8 bits, this one is {p.qmin}..{p.qmax}")


def quantize_codes(x: Tensor, p: QParams) -> Tensor:
    """Codes of x on a grid of at most 8 bits, as uint8 (unsigned grid) or int8 (signed) in x's shape.

    clamp(round_half_even(x / scale) + zero_point, qmin, qmax); p's tensors broadcast against x. ``ValueError`` if x
    holds NaN or infinity or the grid has more than 8 bits.
    """
    dtype = codes_dtype(p)
    if x.dtype != torch.float64 and _native(x):
        codes: Tensor = torch.ops.qexp.quantize(at_least_float32(x), p.scale, p.low, p.high, p.qmin)
        return codes
    if x.numel() and not torch.isfinite(torch.stack(torch.aminmax(x))).all():
        raise ValueError("NaN or infinity in the input")
    return quantize(x, p).to(dtype)


def _native(t: Tensor) -> bool:
    """Whether the compiled one-pass operators take this tensor: they are built or loaded at the first question."""
    return t.is_cpu and native.unavailable() is None


def product(backend: Backend, a: Tensor, weight: PackedWeight) -> Tensor:
    """int32 [M, N] of contiguous codes a [M, K], which may be empty."""
    if a.numel() and weight.rows:
        return backend.matmul(a, weight)
    return torch.zeros(a.shape[0], weight.rows, dtype=torch.int32, device=a.device)


def composed_linear(backend: Backend, x: Tensor, spec: LinearSpec) -> Tensor:
    """Quantize, multiply, correct for zero points, rescale; float32 x [M, K] to [M, N] as :func:`int8_linear` says."""
    codes = quantize_codes(x, spec.input)
    row_sums = None
    if spec.zero_point is not None:
        row_sums = codes.sum(1, keepdim=True, dtype=torch.int32) - spec.weight.depth * spec.input.zero_point
    y = _rescaled(product(backend, codes, spec.weight), row_sums, spec)
    if spec.output is None:
        return y
    codes = quantize_codes(y, spec.output)
    return codes if spec.codes else dequantize(codes, spec.output)


def _rescaled(sums: Tensor, row_sums: Tensor | None, spec: LinearSpec) -> Tensor:
    """float32(acc) * scale + bias with acc = sum_k (x_k - zx) (w_k - zw), from sum_k x_k w_k and sum_k (x_k - zx).

    The integer terms may leave int32 and wrap round, which the whole undoes: it is exact modulo 2^32 and fits.
    """
    zero_point, column_sums = spec.input.zero_point, spec.weight.column_sums
    if _native(sums):
        y: Tensor = torch.ops.qexp.rescale(
            sums, spec.scale, zero_point, column_sums, spec.zero_point, row_sums, spec.bias
        )
        return y
    sums.sub_(zero_point * column_sums)
    if row_sums is not None and spec.zero_point is not None:
        sums.sub_(row_sums * spec.zero_point)
    y = sums.to(torch.float32).mul_(spec.scale)
    return y if spec.bias is None else y.add_(spec.bias)
