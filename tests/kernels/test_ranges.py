"""Laws of the range estimators (paper notes 1.4; section 6, law 15)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from qexp.kernels.quantize import fake_quantize, qparams_from_range
from qexp.kernels.ranges import Kind, RangeEstimator, make_estimator

KINDS: tuple[Kind, ...] = ("minmax", "running_minmax", "percentile", "mse")


def estimator(kind: Kind, **overrides: object) -> RangeEstimator:
    return make_estimator(kind, **{"bits": 8, "symmetric": False, **overrides})  # type: ignore[arg-type]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def loss(x: Tensor, lo: Tensor, hi: Tensor, bits: int, symmetric: bool) -> float:
    return float((fake_quantize(x, qparams_from_range(lo, hi, bits, symmetric)) - x).square().sum())


def test_minmax_is_over_all_batches() -> None:
    e = estimator("minmax")
    e.update(torch.tensor([-1.0, 5.0]))
    e.update(torch.tensor([-3.0, 2.0]))
    assert [v.item() for v in e.range()] == [-3.0, 5.0]
    assert all(v.dim() == 0 for v in e.range())


def test_running_minmax_is_an_exponential_average() -> None:
    a, b = torch.tensor([-1.0, 5.0]), torch.tensor([-3.0, 2.0])
    e = estimator("running_minmax")
    e.update(a)
    assert [v.item() for v in e.range()] == [-1.0, 5.0]
    e.update(b)
    assert [v.item() for v in e.range()] == pytest.approx([0.9 * -1 + 0.1 * -3, 0.9 * 5 + 0.1 * 2])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_constant_batches_give_a_constant_range(kind: Kind, axis: int | None) -> None:
    x = normal(12, 9)
    e = estimator(kind, channel_axis=axis, bits=4)
    e.update(x)
    first = e.range()
    for _ in range(3):
        e.update(x)
    assert torch.allclose(torch.stack(first), torch.stack(e.range()), rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_per_channel_is_each_channel_for_itself(kind: Kind, symmetric: bool, axis: int) -> None:
    x = normal(6, 40) * torch.logspace(-2, 2, 6).view(6, 1)
    x = x if axis == 0 else x.t()
    together = estimator(kind, channel_axis=axis, symmetric=symmetric, bits=4, percentile=90.0)
    together.update(x)
    lo, hi = together.range()
    assert lo.shape == hi.shape == ((6, 1) if axis == 0 else (1, 6))
    for i, channel in enumerate(x.unbind(axis)):
        alone = estimator(kind, symmetric=symmetric, bits=4, percentile=90.0)
        alone.update(channel)
        assert torch.allclose(torch.stack(alone.range()), torch.stack([lo.flatten()[i], hi.flatten()[i]]), rtol=1e-5)


@pytest.mark.parametrize("percentile", [50.5, 90.0, 99.0, 99.9, 99.999, 100.0])
@pytest.mark.parametrize("n", [1, 2, 7, 1000, 12345])
def test_percentile_is_numpys(percentile: float, n: int) -> None:
    x = normal(n)
    e = estimator("percentile", percentile=percentile)
    e.update(x)
    expected = np.percentile(x.double().numpy(), (100 - percentile, percentile))
    assert [v.item() for v in e.range()] == pytest.approx(expected.tolist(), rel=1e-5, abs=1e-5)


def test_percentile_100_is_minmax() -> None:
    x = normal(500)
    e = estimator("percentile", percentile=100.0)
    e.update(x)
    assert e.range() == (x.min(), x.max())


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("shape", ["normal", "outlier", "positive", "skewed", "small"])
def test_mse_is_never_worse_than_minmax_nor_than_a_bounded_search(bits: int, symmetric: bool, shape: str) -> None:
    x = normal(1000)
    x = {
        "normal": x,
        "outlier": torch.cat([x, torch.tensor([60.0, -15.0])]),
        "positive": x.abs(),
        "skewed": torch.nn.functional.gelu(x * 3),
        "small": x * 0.02,
    }[shape]
    e = estimator("mse", bits=bits, symmetric=symmetric)
    e.update(x)
    lo, hi = e.range()
    found = loss(x, lo, hi, bits, symmetric)
    assert found <= loss(x, x.min(), x.max(), bits, symmetric)
    assert found <= bounded_search(x, bits, symmetric) * 1.02


def bounded_search(x: Tensor, bits: int, symmetric: bool) -> float:
    """The released code's golden sections: outer over the range; if asymmetric and two-sided, inner over the shift."""
    largest = float(x.abs().max())
    one_sided = bool((x >= 0).all())

    def shifted(shift: float, half: float) -> float:
        return loss(x, torch.tensor(shift - half), torch.tensor(shift + half), bits, symmetric)

    def at(half: float) -> float:
        if one_sided or symmetric:
            return loss(x, torch.tensor(0.0 if one_sided else -half), torch.tensor(half), bits, symmetric)
        limit = half / 2
        return float(minimize_scalar(shifted, args=(half,), bounds=(-limit, limit), method="bounded").fun)

    return float(minimize_scalar(at, bounds=(0.01 * largest, largest), method="bounded").fun)


def test_mse_clips_an_outlier_at_few_bits_and_small_weights_still_have_candidates() -> None:
    x = torch.cat([normal(5000), torch.tensor([30.0])]) * 0.01
    e = estimator("mse", bits=4, symmetric=True)
    e.update(x)
    assert e.range()[1] < 0.05
    gaussian = normal(20000) * 0.01
    e = estimator("mse", bits=4, symmetric=True)
    e.update(gaussian)
    # Max (1960), uniform quantizer of a Gaussian: best step .3352 std for 16 levels, .3534 for 15 symmetric ones.
    assert 0.335 <= float(e.range()[1]) / 7 / 0.01 <= 0.354


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_remembers_that_a_value_was_not_finite(kind: Kind, bad: float) -> None:
    e = estimator(kind, percentile=90.0)
    e.update(normal(50))
    assert e.finite
    x = normal(50)
    x[7] = bad
    e.update(x)
    e.update(normal(50))
    assert not e.finite


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_and_gradients_are_taken_in(kind: Kind) -> None:
    e = estimator(kind)
    e.update(normal(50).half().requires_grad_())
    lo, hi = e.range()
    assert lo.dtype == hi.dtype == torch.float32 and not hi.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_no_data_is_an_error(kind: Kind) -> None:
    with pytest.raises(ValueError, match="no data"):
        estimator(kind).range()
    with pytest.raises(ValueError, match="empty"):
        estimator(kind).update(torch.empty(0, 3))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown range estimator"):
        estimator("median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="momentum"):
        estimator("running_minmax", momentum=1.5)
    with pytest.raises(ValueError, match="percentile"):
        estimator("percentile", percentile=50.0)
