"""Products of operands: every pair of tiles is one exact integer product, their scaled sum is rounded once.

All steps are powers of two, so a sum of tiles with aligned exponents is a sum of integers. It is taken in float64,
which holds every integer below 2^53: exact, without an integer wider than the int32 sums of the products.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qexp.kernels import native
from qexp.kernels.fixed_point.operand import Operand
from qexp.kernels.int8 import PackedWeight, int8_matmul, select
from qexp.kernels.int8.api import LARGEST_INT32, MAGNITUDE

FUSED = "avx2"
"""The back end beside which the native operator stands that multiplies, adds up and rounds in one pass."""


@dataclass(frozen=True)
class Pair:
    """One summand ``a b^T 2**exponent`` of a product: a [M, K], b [N, K], views of the tiles' codes.

    ``columns``: it has only these of the whole's columns, which the summands without any have all.
    """

    a: Tensor
    b: Tensor | PackedWeight
    exponent: int
    columns: Tensor | None = None


def pairs_nt(a: Operand, b: Operand, packed: Sequence[Tensor | PackedWeight] = ()) -> list[Pair]:
    """a [M, K] times b [N, K] transposed. Only ``a`` may have tiles of some columns.

    ``packed`` are b's codes, packed where they are int8: used wherever a tile of a is whole.
    """
    pairs = []
    for left in a.tiles:
        for place, right in enumerate(b.tiles):
            if left.columns is not None:
                factor: Tensor | PackedWeight = right.codes.index_select(1, left.columns)
            else:
                factor = packed[place] if packed else right.codes
            pairs.append(Pair(left.codes, factor, left.exponent + right.exponent))
    return pairs


def pairs_nn(a: Operand, b: Operand) -> list[Pair]:
    """a [M, N] times b [N, K], both with whole tiles: the gradient of an input."""
    return [Pair(x.codes, y.codes.t(), x.exponent + y.exponent) for x in a.tiles for y in b.tiles]


def pairs_tn(a: Operand, b: Operand) -> list[Pair]:
    """a [M, N] transposed times b [M, K], whose tiles may have some columns: the gradient of a weight."""
    return [Pair(x.codes.t(), y.codes.t(), x.exponent + y.exponent, y.columns) for y in b.tiles for x in a.tiles]


def multiply(pairs: Sequence[Pair], bias: Tensor | None = None) -> Tensor:
    """The sum of all pairs, rounded to float32 once [M, N]; then plus ``bias`` [N], rounded again.

    The inverse mapping of the paper's family: summed exponents are normalised back into floats.
    """
    whole = [pair for pair in pairs if pair.columns is None]
    y = _add_up(whole, bias)
    if (apart := [pair for pair in pairs if pair.columns is not None]) and apart[0].columns is not None:
        columns = apart[0].columns
        y.index_copy_(1, columns, _add_up([*_restricted(whole, columns), *apart], None))
    return y


def _restricted(whole: Sequence[Pair], columns: Tensor) -> list[Pair]:
    """The same pairs with these columns of the result only."""
    kept = []
    for pair in whole:
        assert isinstance(pair.b, Tensor)
        kept.append(Pair(pair.a, pair.b.index_select(0, columns), pair.exponent))
    return kept


def _add_up(pairs: Sequence[Pair], bias: Tensor | None) -> Tensor:
    if all(map(_is_fused, pairs)) and select("auto", pairs[0].a.device.type).name == FUSED:
        return _fused(pairs, bias)
    sums, exponents = [integer_product(pair.a, pair.b) for pair in pairs], [pair.exponent for pair in pairs]
    if native.is_loaded() and all(s.is_cpu and s.dtype == torch.int32 for s in sums):
        y: Tensor = torch.ops.qexp.fixed_point_sum(sums, exponents, bias)
        return y
    total = torch.zeros_like(sums[0], dtype=torch.float64)
    for s, exponent in zip(sums, exponents, strict=True):
        total.add_(s.double(), alpha=math.ldexp(1.0, exponent))
    y = total.float()
    return y if bias is None else y.add_(bias)


def _is_fused(pair: Pair) -> bool:
    """Whether the native operator takes these codes: bytes, the second factor signed, sums within int32."""
    if not (native.is_loaded() and pair.a.is_cpu and pair.a.dtype in MAGNITUDE):
        return False
    if isinstance(pair.b, PackedWeight):
        return pair.b.backend == FUSED
    return pair.b.dtype == torch.int8 and pair.a.shape[1] <= _longest(pair.a, pair.b)


def _fused(pairs: Sequence[Pair], bias: Tensor | None) -> Tensor:
    weights = [p.b.tensors if isinstance(p.b, PackedWeight) else (p.b,) for p in pairs]
    y: Tensor = torch.ops.qexp.fixed_point_product(
        pairs[0].a,
        weights[0][0],
        pairs[0].exponent,
        [pair.a for pair in pairs[1:]],
        [weight[0] for weight in weights[1:]],
        [pair.exponent for pair in pairs[1:]],
        bias,
        [tensor for weight in weights for tensor in weight[1:]],
    )
    return y


def integer_product(a: Tensor, b: Tensor | PackedWeight) -> Tensor:
    """sum_k a[m, k] * b[n, k], exact: int32 of bytes, through ``kernels/int8``; float64 where a factor is int16.

    Sums that could leave int32 are taken in pieces along K, in float64. The int16 product is the reference for wide
    integers: in float64, exact below 2^53.
    """
    if isinstance(b, PackedWeight):
        return int8_matmul(a, b)
    if torch.int16 in (a.dtype, b.dtype):
        return wide_product(a, b)
    longest = _longest(a, b)
    if a.shape[1] <= longest:
        return _bytes_product(a, b)
    ends = [(first, min(first + longest, a.shape[1])) for first in range(0, a.shape[1], longest)]
    return torch.stack([_bytes_product(a[:, i:j], b[:, i:j]).double() for i, j in ends]).sum(0)


def column_sums(codes: Tensor) -> Tensor:
    """int64 sums of the columns of codes [M, N], exact."""
    if native.is_loaded() and codes.is_cpu:
        sums: Tensor = torch.ops.qexp.fixed_point_column_sums(codes)
        return sums
    return codes.sum(0)


def wide_product(a: Tensor, b: Tensor) -> Tensor:
    """The same of integers of any width up to int16, multiplied as float64."""
    return a.double() @ b.double().t()


def _longest(a: Tensor, b: Tensor) -> int:
    """The largest K whose sums fit int32 whatever the codes."""
    return LARGEST_INT32 // (MAGNITUDE[a.dtype] * MAGNITUDE[b.dtype])


def _bytes_product(a: Tensor, b: Tensor) -> Tensor:
    # As a batch of one, b is not packed for use again and again: it changes in every step.
    return int8_matmul(a.contiguous().unsqueeze(0), b.contiguous().unsqueeze(0)).squeeze(0)
