"""The two Triton kernels: quantize a float matrix to int8, and multiply int8 matrices with a rescaling epilogue.

Imported by :mod:`qexp.kernels.int8.triton` only, at first use: this module needs Triton, and ``TRITON_INTERPRET=1``
must be set before that import to run it without a GPU.

Why two kernels: a tile of x is needed by every column block of the output. Quantized inside the product, each element
would be divided N / BLOCK_N times (32 times for N = 8192), and a float tile takes two or four times the shared memory
and bandwidth of its codes. One pass at memory speed costs M K (size of x's dtype + 1) bytes, once.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

INTERPRETED = triton.knobs.runtime.interpret

GROUP = tl.constexpr(8)
HALF_EVEN = tl.constexpr(12582912.0)
HALF_EVEN_BITS = tl.constexpr(0x4B400000)


@triton.jit
def round_half_even(x):
    """Nearest integer, ties to even, of |x| < 2^22, as int32.

    x + 1.5 * 2^23 has no room for a fraction, so the addition rounds as IEEE does, and its low bits are the integer:
    one addition in place of two slow conversions, and without libdevice, which Triton's interpreter lacks.
    """
    return (x + HALF_EVEN).to(tl.int32, bitcast=True) - HALF_EVEN_BITS


@triton.jit
def to_codes(x, scale, zero_point, qmin, qmax):
    """clamp(round(x / scale) + zero_point, qmin, qmax). The ends are integers, so clamping first changes nothing."""
    low = (qmin - zero_point).to(tl.float32)
    high = (qmax - zero_point).to(tl.float32)
    steps = tl.minimum(tl.maximum(tl.div_rn(x, scale), low), high)
    return round_half_even(steps) + zero_point


@triton.jit
def quantize_kernel(
    x, codes, not_finite, scale_pointer, zero_pointer, depth, padded, qmin, qmax, shift, BLOCK: tl.constexpr
):
    """codes[m, k] = code of x[m, k] - shift, 0 for depth <= k < padded; not_finite[0] = 1 where x is NaN or infinite.

    One program takes BLOCK elements of one row.
    """
    row = tl.program_id(0).to(tl.int64)
    k = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(x + row * depth + k, mask=k < depth, other=0.0).to(tl.float32)
    stored = to_codes(values, tl.load(scale_pointer), tl.load(zero_pointer).to(tl.int32), qmin, qmax) - shift
    stored = tl.where(k < depth, stored, 0)
    tl.store(codes + row * padded + k, stored.to(codes.dtype.element_ty), mask=k < padded)
    finite = tl.abs(values) < float("inf")
    tl.store(not_finite, 1, mask=tl.sum((~finite).to(tl.int32)) > 0)


@triton.jit
def place(tile, tiles_m, tiles_n):
    """Matrix, row block and column block of a tile: down GROUP row blocks, then to the next column block.

    So programs that run together find their operands in the L2 cache.
    """
    within = tile % (tiles_m * tiles_n)
    first = within // (GROUP * tiles_n) * GROUP
    height = tl.minimum(tiles_m - first, GROUP)
    within = within % (GROUP * tiles_n)
    return tile // (tiles_m * tiles_n), first + within % height, within // height


def _blocks(m: int, n: int, k: int, warps: int, stages: int, resident: bool = False) -> triton.Config:
    meta = {"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k, "RESIDENT": resident}
    return triton.Config(meta, num_warps=warps, num_stages=stages, pre_hook=_set_blocks)


def _set_blocks(arguments: dict[str, Any]) -> None:
    """Descriptors are made before the tuner has chosen the blocks that they read."""
    if not arguments["POINTERS"]:
        arguments["a"].block_shape = [arguments["BLOCK_M"], arguments["BLOCK_K"]]
        arguments["b"].block_shape = [arguments["BLOCK_N"], arguments["BLOCK_K"]]


ONE_ROW_BLOCK = _blocks(16, 64, 128, 4, 5)
SMALL = _blocks(64, 64, 128, 4, 5)
LARGE = [
    _blocks(64, 128, 128, 4, 4),
    _blocks(128, 64, 128, 4, 4),
    _blocks(128, 128, 64, 4, 4),
    _blocks(128, 128, 128, 4, 3),
    _blocks(128, 128, 128, 8, 4, resident=True),
    _blocks(128, 256, 64, 8, 4, resident=True),
    _blocks(128, 256, 64, 8, 4),
    _blocks(128, 256, 128, 8, 3),
    _blocks(128, 256, 128, 8, 4),
    _blocks(256, 128, 128, 8, 3),
]
"""Large blocks reuse what they load. Those of 4 warps leave room for two programs on a processor, so that one
multiplies while the other stores, as resident ones do by themselves. The tuner passes over what does not fit."""
CONFIGS = [_blocks(16, 32, 32, 4, 1, resident=True)] if INTERPRETED else [ONE_ROW_BLOCK, SMALL, *LARGE]
WORTH_TUNING = 2**30
"""Multiplications of a product from which on the blocks are tuned; below, trying ten costs more than it gains."""


def _suitable(
    configs: list[triton.Config], _: dict[str, Any], *, batch: int, m: int, n: int, k: int, **others: Any
) -> list[triton.Config]:
    if INTERPRETED or batch * m * n * k >= WORTH_TUNING:
        return configs
    return [ONE_ROW_BLOCK if m <= ONE_ROW_BLOCK.kwargs["BLOCK_M"] else SMALL]


@triton.autotune(configs=CONFIGS, key=["size"], prune_configs_by={"early_config_prune": _suitable})
@triton.jit(do_not_specialize=["batch", "m", "depth", "size", "shift", "qmin", "qmax"])
def product_kernel(
    a,
    b,
    out,
    column_sums,
    row_sums,
    input_zero,
    weight_zero,
    scale,
    bias,
    output_scale,
    output_zero,
    batch,
    m,
    n,
    k,
    depth,
    size,
    shift,
    qmin,
    qmax,
    POINTERS: tl.constexpr,
    ZEROS: tl.constexpr,
    SCALES: tl.constexpr,
    CODES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    RESIDENT: tl.constexpr,
):
    """out[i, m, n] = sum_k (a[i m, k] + shift - zero) * (b[i n, k] - zero of b), then scaled, + bias, on a grid.

    a and b are descriptors of [batch m, k] and [batch n, k]; what lies beyond an edge is read as zero, or as rows of
    the next matrix that are never stored. RESIDENT programs stay for several tiles and load the next while storing.
    Every floating-point operation is rounded on its own: this is compiled without fused multiply-add.
    """
    if POINTERS:
        a = tl.make_tensor_descriptor(a, [batch * m, k], [k, 1], [BLOCK_M, BLOCK_K])
        b = tl.make_tensor_descriptor(b, [batch * n, k], [k, 1], [BLOCK_N, BLOCK_K])
    tiles_m = tl.cdiv(m, BLOCK_M)
    tiles_n = tl.cdiv(n, BLOCK_N)
    for tile in tl.range(tl.program_id(0), batch * tiles_m * tiles_n, tl.num_programs(0), flatten=RESIDENT):
        matrix, row_block, column_block = place(tile, tiles_m, tiles_n)
        first_row = matrix * m + row_block * BLOCK_M
        first_column = matrix * n + column_block * BLOCK_N
        total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.int32)
        for start in tl.range(0, k, BLOCK_K):
            left = a.load([first_row, start])
            right = b.load([first_column, start])
            total = tl.dot(left, right.T, total, out_dtype=tl.int32)

        rows = row_block * BLOCK_M + tl.arange(0, BLOCK_M)
        columns = column_block * BLOCK_N + tl.arange(0, BLOCK_N)
        is_row = rows < m
        is_column = columns < n
        if column_sums is not None:
            zero = -shift
            if input_zero is not None:
                zero += tl.load(input_zero).to(tl.int32)
            total -= (zero * tl.load(column_sums + matrix * n + columns, mask=is_column, other=0))[None, :]
            if weight_zero is not None:
                of_rows = tl.load(row_sums + rows, mask=is_row, other=0) - depth * zero
                of_columns = tl.load(weight_zero + columns * ZEROS, mask=is_column, other=0).to(tl.int32)
                total -= of_rows[:, None] * of_columns[None, :]
        result = total
        if scale is not None:
            result = total.to(tl.float32) * tl.load(scale + columns * SCALES, mask=is_column, other=0.0)[None, :]
            if bias is not None:
                result += tl.load(bias + columns, mask=is_column, other=0.0).to(tl.float32)[None, :]
            if output_scale is not None:
                step = tl.load(output_scale)
                output = tl.load(output_zero).to(tl.int32)
                codes = to_codes(result, step, output, qmin, qmax)
                result = codes if CODES else (codes - output).to(tl.float32) * step
        places = (matrix.to(tl.int64) * m + rows.to(tl.int64))[:, None] * n + columns[None, :]
        tl.store(out + places, result.to(out.dtype.element_ty), mask=is_row[:, None] & is_column[None, :])
