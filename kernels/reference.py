"""Slow truth for tests: Python integers and float64, written from the formulas and sharing no code with the kernels."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import torch
from torch import Tensor


def quantize(x: Tensor, scale: float, zero_point: int, qmin: int, qmax: int) -> Tensor:
    """int64 codes of x per tensor. The division is x's own (float32 for float32), the rest Python integers."""
    quotients = (x / torch.full_like(x, scale)).flatten().tolist()
    codes = [min(max(round(v) + zero_point, qmin), qmax) for v in quotients]
    return torch.tensor(codes, dtype=torch.int64).reshape(x.shape)


def fake_quantize(x: Tensor, scale: float, zero_point: int, qmin: int, qmax: int) -> Tensor:
    """scale * (code - zero_point), the product in x's dtype."""
    steps = quantize(x, scale, zero_point, qmin, qmax) - zero_point
    return steps.to(x.dtype) * torch.full_like(x, scale)


def clipped_softmax(scores: Sequence[float], gamma: float, zeta: float) -> list[float]:
    """One row of eq. 4 of arXiv 2306.12929 in float64."""
    exponentials = [math.exp(s - max(scores)) for s in scores]
    total = math.fsum(exponentials)
    return [min(max((zeta - gamma) * e / total + gamma, 0.0), 1.0) for e in exponentials]


def row_statistics(row: Sequence[float], epsilon: float) -> dict[str, float]:
    """Mean, Bessel std, largest magnitude, kurtosis mean((x - mean)^4) / (std^4 + epsilon), and values beyond 6 std."""
    n = len(row)
    mean = math.fsum(row) / n
    centred = [v - mean for v in row]
    std = math.sqrt(math.fsum(c**2 for c in centred) / (n - 1))
    return {
        "mean": mean,
        "std": std,
        "max_abs": max(abs(v) for v in row),
        "kurtosis": math.fsum(c**4 for c in centred) / n / (std**4 + epsilon),
        "outliers": sum(abs(c) > 6 * std for c in centred),
    }


def int8_matmul(a: Tensor, b: Tensor) -> Tensor:
    """int64 sum_k a[.., m, k] * b[.., n, k], element by element."""
    return (a.long().unsqueeze(-2) * b.long().unsqueeze(-3)).sum(-1)


def int8_linear(
    x: Tensor,
    weight: Tensor,
    input_grid: tuple[float, int, int, int],
    weight_scales: Sequence[float],
    weight_zero_points: Sequence[int],
    bias: Sequence[float],
) -> Tensor:
    """float32 [M, N] of x [M, K] and codes [N, K]; ``input_grid`` is (scale, zero_point, qmin, qmax).

    Each float operation is done in float64 and rounded to float32, which for one product, quotient or sum of float32
    numbers rounds as float32 itself does.
    """
    scale, zero_point, qmin, qmax = input_grid
    channels = list(zip(weight.tolist(), weight_scales, weight_zero_points, bias, strict=True))
    rows = []
    for values in x.tolist():
        steps = [min(max(round(_float32(v / scale)) + zero_point, qmin), qmax) - zero_point for v in values]
        sums = [sum(s * (w - zw) for s, w in zip(steps, row, strict=True)) for row, _, zw, _ in channels]
        scaled = [_float32(_float32(t) * _float32(scale * c[1])) for t, c in zip(sums, channels, strict=True)]
        rows.append([_float32(y + c[3]) for y, c in zip(scaled, channels, strict=True)])
    return torch.tensor(rows, dtype=torch.float32).reshape(len(x), len(channels))


def _float32(value: float) -> float:
    """The nearest float32 number."""
    (nearest,) = struct.unpack("f", struct.pack("f", value))
    return float(nearest)
