"""The loss of many grids in one look at memory, against float64 in torch's operators."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qexp.kernels import native
from qexp.kernels.quantize import fake_quantize, qparams_from_range
from qexp.kernels.ranges import mse_range

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason=f"no native kernels: {native.unavailable()}")

SIZES = [1, 15, 16, 17, 4095, 4096, 4097, 20_000]


def heavy_tailed(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))) ** 3


def grids(channels: int, symmetric: bool, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Seven grids for each channel."""
    los = -torch.logspace(-2, 1, 7).unsqueeze(1) * torch.linspace(1.0, 2.0, channels)
    params = qparams_from_range(los, -2.0 * los, bits, symmetric)
    return params.scale, params.low, params.high


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize(("symmetric", "bits"), [(True, 4), (False, 8)])
def test_every_loss_is_that_of_float64(n: int, channels: int, symmetric: bool, bits: int) -> None:
    x, (scale, low, high) = heavy_tailed(channels, n), grids(channels, symmetric, bits)
    found = torch.ops.qexp.squared_errors(x, scale, low, high)
    steps = (x / scale.unsqueeze(-1)).round()
    quantized = steps.clamp(low.unsqueeze(-1), high.unsqueeze(-1)) * scale.unsqueeze(-1)
    expected = (quantized.double() - x.double()).square().sum(-1)
    assert found.dtype == torch.float64 and found.shape == (7, channels)
    assert torch.allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize(("symmetric", "bits"), [(True, 4), (False, 4), (True, 8), (False, 8)])
def test_a_search_finds_what_it_finds_in_float64(axis: int | None, symmetric: bool, bits: int) -> None:
    x = heavy_tailed(9, 3000)
    found, exact = (_found(each, bits, symmetric, axis) for each in (x, x.double()))
    assert _loss(x, found, bits, symmetric) == pytest.approx(_loss(x, exact, bits, symmetric), rel=1e-4)


def test_threads_do_not_change_a_bit() -> None:
    x, threads = heavy_tailed(3, 200_000), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = torch.ops.qexp.squared_errors(x, *grids(3, False, 8))
        torch.set_num_threads(2)
        assert torch.equal(one, torch.ops.qexp.squared_errors(x, *grids(3, False, 8)))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_makes_no_loss_small(bad: float) -> None:
    x = heavy_tailed(1, 5000)
    x[0, 17] = bad
    assert not torch.ops.qexp.squared_errors(x, *grids(1, False, 8)).isfinite().any()


def test_shapes_and_types_that_do_not_fit_are_refused() -> None:
    x, grid = heavy_tailed(2, 40), grids(2, False, 8)
    with pytest.raises(TypeError, match="float32"):
        torch.ops.qexp.squared_errors(x.double(), *grid)
    with pytest.raises(ValueError, match=r"candidates, channels"):
        torch.ops.qexp.squared_errors(x, *grids(3, False, 8))
    with pytest.raises(ValueError, match="as many ends"):
        torch.ops.qexp.squared_errors(x, grid[0], grid[1][:2], grid[2])


def _found(x: Tensor, bits: int, symmetric: bool, axis: int | None) -> tuple[Tensor, Tensor]:
    lo, hi = (x.amin(), x.amax()) if axis is None else (x.amin(1 - axis % 2, True), x.amax(1 - axis % 2, True))
    return mse_range(x, bits, symmetric, axis, (lo, hi))


def _loss(x: Tensor, ends: tuple[Tensor, Tensor], bits: int, symmetric: bool) -> float:
    params = qparams_from_range(ends[0].float(), ends[1].float(), bits, symmetric)
    return float((fake_quantize(x, params) - x).square().sum())
