"""Slow truth for tests: Python integers and float64, written from the formulas and sharing no code with the kernels."""

from __future__ import annotations

import math
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
