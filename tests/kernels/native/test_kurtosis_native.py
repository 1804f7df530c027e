"""Kurtosis in one look at memory against float64 in torch's operators."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from qexp.kernels import native
from qexp.kernels.kurtosis import kurtosis

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason=f"no native kernels: {native.unavailable()}")

SIZES = [15, 16, 17, 4095, 4096, 4097, 100_000]


def heavy_tailed(n: int, mean: float = 0.0) -> Tensor:
    """Gaussian with its last element 5 standard deviations away."""
    w = 0.02 * torch.randn(n, generator=torch.Generator().manual_seed(n))
    w[-1] = 0.1
    return w + mean


def with_gradient(w: Tensor) -> tuple[float, Tensor]:
    w = w.clone().requires_grad_()
    value = kurtosis(w)
    (gradient,) = torch.autograd.grad(value, w)
    return float(value.detach()), gradient


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("mean", [0.0, 3.0])
@pytest.mark.parametrize("n", SIZES)
def test_value_and_gradient_are_those_of_float64(n: int, mean: float) -> None:
    w = heavy_tailed(n, mean)
    (value, gradient), (expected, exact) = with_gradient(w), with_gradient(w.double())
    assert value == pytest.approx(expected, rel=1e-4)
    assert distance(gradient, exact) < 1e-3


def test_a_view_of_other_strides_has_the_kurtosis_of_its_elements() -> None:
    w = heavy_tailed(6000).view(60, 100)
    assert with_gradient(w.T)[0] == pytest.approx(with_gradient(w)[0], rel=1e-6)
    assert distance(with_gradient(w.T)[1], with_gradient(w)[1].T) < 1e-5


def test_threads_do_not_change_a_bit() -> None:
    w, threads = heavy_tailed(300_000), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        value, gradient = with_gradient(w)
        torch.set_num_threads(2)
        again, gradient_again = with_gradient(w)
    finally:
        torch.set_num_threads(threads)
    assert value == again and torch.equal(gradient, gradient_again)


def test_nan_stays_nan() -> None:
    w = heavy_tailed(5000)
    w[77] = math.nan
    assert math.isnan(float(kurtosis(w)))


def test_a_constant_is_refused_as_without_the_kernels() -> None:
    with pytest.raises(ValueError, match="constant"):
        kurtosis(torch.full((5000,), 0.3))
