"""Slow truth for tests: Python integers and float64, written from the formulas and sharing no code with the kernels."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from fractions import Fraction

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


def fixed_point(x: Tensor, bits: int) -> tuple[Tensor, int]:
    """int64 codes of float x on the step 2^exponent, and that exponent, from the bits of each number.

    e_max is the largest binary exponent of a normalised value (0 if all are 0); nearest, ties to even, clipped.
    """
    values = [Fraction(v) for v in x.double().flatten().tolist()]
    exponent = max((math.frexp(float(v))[1] for v in values if v), default=0) - (bits - 1)
    top = 2 ** (bits - 1) - 1
    codes = [min(max(round(v / Fraction(2) ** exponent), -top), top) for v in values]
    return torch.tensor(codes, dtype=torch.int64).reshape(x.shape), exponent


def fixed_point_product(a: Tensor, b: Tensor, exponent: int, bias: Sequence[float] | None = None) -> Tensor:
    """float32 [M, N] of integers a [M, K] and b [N, K]: float32(2^exponent * sum_k a[m, k] b[n, k]) + bias."""
    sums = [[sum(x * y for x, y in zip(row, column, strict=True)) for column in b.tolist()] for row in a.tolist()]
    scaled = torch.tensor([[_float32(math.ldexp(s, exponent)) for s in row] for row in sums], dtype=torch.float32)
    scaled = scaled.reshape(len(a), len(b))
    return scaled if bias is None else scaled + torch.tensor(bias, dtype=torch.float32)


def integer_spread(row: Sequence[int]) -> tuple[list[int], int]:
    """Of integers q_i: n q_i - sum q, and n sum q^2 - (sum q)^2, which is n^2 times their variance."""
    n, total = len(row), sum(row)
    return [n * q - total for q in row], n * sum(q * q for q in row) - total**2


def kurtosis(values: Sequence[float], unbiased: bool = True) -> float:
    """mean(((w - mean) / std)^4), std with n - 1 where unbiased."""
    n = len(values)
    mean = math.fsum(values) / n
    variance = math.fsum((v - mean) ** 2 for v in values) / (n - unbiased)
    return math.fsum((v - mean) ** 4 for v in values) / n / variance**2


def kurtosis_gradient(values: Sequence[float], unbiased: bool = True) -> list[float]:
    """dK/dw_i = 4 / (n s) (z_i^3 - S - K z_i) with the biased std s and z = (w - mean) / s, S = mean z^3; a factor of
    ((n - 1) / n)^2 where unbiased."""
    n = len(values)
    mean = math.fsum(values) / n
    s = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / n)
    z = [(v - mean) / s for v in values]
    skewness, k = math.fsum(v**3 for v in z) / n, math.fsum(v**4 for v in z) / n
    factor = ((n - 1) / n) ** 2 if unbiased else 1.0
    return [factor * 4 / (n * s) * (v**3 - skewness - k * v) for v in z]


def uniform_mse(a: float, step: float, bits: int) -> float:
    """Mean squared error of quantizing a uniform distribution on [-a, a] (KURE's lemma, supplement).

    The quantizer has 2^(bits - 1) cells of width ``step`` on each side of zero, gives their midpoints, and beyond them
    the end of the last. Where the cells cover no more than [-a, a] this is the lemma's
    (a - 2^(M-1) D)^3 / (3a) + 2^M D^3 / (24a); with larger steps, where the lemma does not hold, it stays exact.
    """
    half = 1 << (bits - 1)
    cells = min(int(a / step), half)
    rest = a - cells * step
    tail = rest**3 if cells == half else (rest - step / 2) ** 3 + (step / 2) ** 3
    return (cells * step**3 / 12 + tail / 3) / a


def best_uniform_step(a: float, bits: int) -> float:
    """The step of least :func:`uniform_mse`: 2a / (2^bits + 1) (KURE's lemma, supplement)."""
    return 2 * a / ((1 << bits) + 1)
