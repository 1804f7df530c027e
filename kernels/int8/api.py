"""The exact int8 product and the integer linear layer, on whichever back end is selected."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from qexp.kernels.int8.backends import Backend, LinearSpec, PackedWeight, find, pack_with, select
from qexp.kernels.int8.composition import codes_dtype, composed_linear, product
from qexp.kernels.quantize import QParams, at_least_float32

LARGEST_INT32 = 2**31 - 1
MAGNITUDE = {torch.uint8: 255, torch.int8: 128}
"""Largest magnitude of a code."""


def int8_matmul(a: Tensor, b: Tensor | PackedWeight, backend: str = "auto") -> Tensor:
    """Exact products of codes: int32 [.., M, N] = sum_k a[.., m, k] * b[.., n, k].

    a is uint8 or int8 [.., M, K]; b a packed weight, or uint8 or int8 [N, K], or a batch [.., N, K] with the leading
    dimensions of a. Any strides, any size may be 0. ``TypeError`` for other dtypes; ``ValueError`` for shapes that do
    not fit, a K whose sums could leave int32 (65,793 for uint8 x int8), or a back end that cannot be used (see
    :func:`~qexp.kernels.int8.backends.select`).
    """
    _check_codes(a, "a")
    if isinstance(b, PackedWeight):
        _check_depth(a.shape[-1], b.depth, MAGNITUDE[a.dtype] * 128)
        return _flat(a, b, _of(b, backend))
    _check_codes(b, "b")
    _check_depth(a.shape[-1], b.shape[-1], MAGNITUDE[a.dtype] * MAGNITUDE[b.dtype])
    chosen = select(backend, a.device.type)
    # A uint8 b is an int8 one shifted by 128; what the shift took off is 128 times the row sums of a.
    signed = b if b.dtype == torch.int8 else (b ^ 128).view(torch.int8)
    sums = _flat(a, pack_with(chosen, signed), chosen) if b.dim() == 2 else _batched(a, signed, chosen)
    return sums if signed is b else sums.add_(128 * a.sum(-1, keepdim=True, dtype=torch.int32))


def _flat(a: Tensor, weight: PackedWeight, backend: Backend) -> Tensor:
    """a [.., M, K] as one matrix times the weight."""
    rows = a.reshape(math.prod(a.shape[:-1]), a.shape[-1]).contiguous()
    return product(backend, rows, weight).reshape(*a.shape[:-1], weight.rows)


def _batched(a: Tensor, b: Tensor, backend: Backend) -> Tensor:
    """Each [M, K] of a with the [N, K] of b at the same place."""
    if a.shape[:-2] != b.shape[:-2]:
        raise ValueError(f"a batch of products needs equal leading dimensions: a {list(a.shape)}, b {list(b.shape)}")
    shape = (*a.shape[:-1], b.shape[-2])
    if not (a.numel() and b.numel()):
        return torch.zeros(shape, dtype=torch.int32, device=a.device)
    return backend.batched_matmul(a.flatten(0, -3).contiguous(), b.flatten(0, -3)).reshape(shape)


def pack_weight(b: Tensor, backend: str = "auto") -> PackedWeight:
    """An int8 weight [N, K] in the layout of a back end. ``TypeError`` / ``ValueError`` for anything else."""
    if b.dtype != torch.int8:
        raise TypeError(f"a weight to pack is int8, not {b.dtype}; store unsigned codes as code - 128")
    if b.dim() != 2:
        raise ValueError(f"a weight to pack is [N, K], not {list(b.shape)}")
    _check_depth(b.shape[1], b.shape[1], 128 * 128)
    return pack_with(select(backend, b.device.type), b)


def int8_linear(
    x: Tensor,
    weight: PackedWeight,
    input: QParams,
    weight_scale: Tensor,
    bias: Tensor | None = None,
    output: QParams | None = None,
    weight_zero_point: Tensor | None = None,
    codes: bool = False,
) -> Tensor:
    """A linear layer in integers: float x [.., K] to float32 [.., N], or to codes on ``output``.

    acc = sum_k (q(x)_k - zx) (w_k - zw) exactly; y = float32(acc) * float32(sx * sw) + bias, each step rounded; then
    with ``output`` y's codes on that grid, returned as such (``codes``) or as scale * (code - zero point).

    ``input`` is per tensor, or per token ([.., 1]); ``output`` per tensor. ``weight_scale`` and ``weight_zero_point``
    have one element or N. x is float32 or half precision (widened). ``ValueError`` if x holds NaN or infinity, shapes
    do not fit, a grid has more than 8 bits or sums could leave int32; ``TypeError`` for other dtypes of x.
    """
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise TypeError(f"int8_linear takes float32 or half precision, not {x.dtype}")
    if codes and output is None:
        raise ValueError("codes are asked for without the output grid that they lie on")
    _check_depth(x.shape[-1], weight.depth, 255 * (128 if weight_zero_point is None else 255))
    rows = at_least_float32(x).reshape(math.prod(x.shape[:-1]), weight.depth).contiguous()
    spec = _spec(len(rows), weight, input, weight_scale, bias, output, weight_zero_point, codes)
    return _linear(rows, spec, find(weight.backend)).reshape(*x.shape[:-1], weight.rows)


def _spec(
    tokens: int,
    weight: PackedWeight,
    input: QParams,
    weight_scale: Tensor,
    bias: Tensor | None,
    output: QParams | None,
    zero_point: Tensor | None,
    codes: bool,
) -> LinearSpec:
    """The layer with every tensor in the shape that broadcasts against [M, N]; checks sizes and grids."""
    for grid in (input, output):
        if grid is not None:
            codes_dtype(grid)
    n = weight.rows
    if bias is not None:
        if bias.numel() != n:
            raise ValueError(f"{n} output channels need {n} biases, not {bias.numel()}")
        bias = bias.float()
    if input.scale.dim():
        per_row = [_one_or(tokens, t, "tokens", "grids", (-1, 1)) for t in (input.scale, input.zero_point)]
        input = replace(input, scale=per_row[0], zero_point=per_row[1])
    scale = input.scale * _one_or(n, weight_scale.float(), "output channels", "weight scales", (-1,))
    if zero_point is not None:
        zero_point = _one_or(n, zero_point.int(), "output channels", "weight zero points", (-1,))
    return LinearSpec(weight, input, scale, zero_point, bias, output, codes)


def _linear(x: Tensor, spec: LinearSpec, backend: Backend) -> Tensor:
    fused = backend.linear(x, spec) if x.numel() and spec.weight.rows else None
    return composed_linear(backend, x, spec) if fused is None else fused


def _of(weight: PackedWeight, backend: str) -> Backend:
    """The back end whose layout a packed weight has. ``ValueError`` if another one is asked for."""
    if backend not in ("auto", weight.backend):
        raise ValueError(f"the weight is packed for {weight.backend!r}, not for {backend!r}: pack it again")
    return find(weight.backend)


def _one_or(count: int, t: Tensor, of: str, what: str, shape: tuple[int, ...]) -> Tensor:
    """A value that all share as 0-dim, one for each of ``count`` in ``shape``."""
    if t.numel() not in (1, count):
        raise ValueError(f"{count} {of} need 1 or {count} {what}, not {t.numel()}")
    return t.reshape(()) if t.numel() == 1 else t.reshape(shape)


def _check_codes(t: Tensor, name: str) -> None:
    if t.dtype not in MAGNITUDE:
        raise TypeError(f"{name} must hold uint8 or int8 codes, not {t.dtype}")
    if t.dim() < 2:
        raise ValueError(f"{name} must be a matrix or a batch of matrices, not {list(t.shape)}")


def _check_depth(depth: int, of_b: int, largest_product: int) -> None:
    """``ValueError`` if the operands' K differ, or a sum of K products could leave int32."""
    if depth != of_b:
        raise ValueError(f"the last dimensions must agree: {depth} and {of_b}")
    if depth > (bound := LARGEST_INT32 // largest_product):
        raise ValueError(f"K = {depth} is too long for exact int32 sums of these codes: at most {bound}")
