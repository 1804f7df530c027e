from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qexp.kernels import kurtosis as module
from qexp.kernels import reference
from qexp.kernels.kurtosis import kurtosis, kurtosis_penalty
from qexp.kernels.reference import best_uniform_step, uniform_mse

SAMPLES = 1_000_000


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    """Between 0 and 1."""
    return torch.rand(*shape, generator=seeded(seed), dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def gradient_of(w: Tensor, unbiased: bool = True) -> Tensor:
    w = w.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(kurtosis(w, unbiased), w)
    return gradient


@pytest.mark.parametrize(
    "name, expected, tolerance",
    [("uniform", 1.8, 0.01), ("normal", 3.0, 0.02), ("laplace", 6.0, 0.1), ("logistic", 4.2, 0.05)],
)
def test_kurtosis_of_known_distributions(name: str, expected: float, tolerance: float) -> None:
    u = uniform(SAMPLES)
    samples = {
        "uniform": u,
        "normal": normal(SAMPLES),
        "laplace": -(u - 0.5).sign() * torch.log1p(-2 * (u - 0.5).abs()),
        "logistic": torch.log(u / (1 - u)),
    }
    assert float(kurtosis(samples[name].float())) == pytest.approx(expected, abs=tolerance)


def test_two_points_have_the_least_kurtosis_and_one_entry_of_many_the_largest() -> None:
    assert float(kurtosis(torch.tensor([1.0, -1.0] * 8), unbiased=False)) == 1.0
    n = 1000
    one_hot = torch.zeros(n, dtype=torch.float64)
    one_hot[3] = 1.0
    assert float(kurtosis(one_hot, unbiased=False)) == pytest.approx(n - 2 + 1 / (n - 1), rel=1e-12)


@given(a=st.floats(0.01, 100.0), negative=st.booleans(), b=st.floats(-100.0, 100.0))
def test_shift_and_scale_do_not_matter(a: float, negative: bool, b: float) -> None:
    w = normal(500)
    moved = (-a if negative else a) * w + b
    assert float(kurtosis(moved)) == pytest.approx(float(kurtosis(w)), rel=1e-5)


@pytest.mark.parametrize("mean", [0.0, 0.05, 1.0, -300.0])
def test_float32_agrees_with_the_reference_whatever_the_mean(mean: float) -> None:
    w = (normal(40, 50) + mean).float()
    assert float(kurtosis(w)) == pytest.approx(reference.kurtosis(w.double().flatten().tolist()), rel=1e-5)


@pytest.mark.parametrize("n", [2, 3, 50])
def test_the_unbiased_std_makes_kurtosis_smaller_by_a_known_factor(n: int) -> None:
    w = normal(n)
    assert float(kurtosis(w)) == pytest.approx(((n - 1) / n) ** 2 * float(kurtosis(w, unbiased=False)), rel=1e-14)


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("mean", [0.0, 5.0])
def test_the_gradient_is_the_closed_form_and_autograds(mean: float, unbiased: bool) -> None:
    w = normal(30, 7) ** 3 + mean
    found = gradient_of(w, unbiased)
    closed = torch.tensor(reference.kurtosis_gradient(w.flatten().tolist(), unbiased), dtype=torch.float64)
    torch.testing.assert_close(found.flatten(), closed, rtol=1e-9, atol=1e-12)
    leaf = w.clone().requires_grad_()
    by_torch = ((leaf - leaf.mean()) / leaf.std(unbiased=unbiased)).pow(4).mean()
    torch.testing.assert_close(found, torch.autograd.grad(by_torch, leaf)[0], rtol=1e-9, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x: kurtosis(x, unbiased), w[:4].clone().requires_grad_())


def test_the_gradient_sums_to_zero_and_is_orthogonal_to_the_weights() -> None:
    w = normal(30, 7) + 2.0
    gradient = gradient_of(w)
    scale = float(gradient.abs().sum())
    assert abs(float(gradient.sum())) < 1e-12 * scale
    assert abs(float((gradient * w).sum())) < 1e-12 * scale


@pytest.mark.parametrize("numel", [9, 10, 11, 40])
def test_chunks_make_no_difference(monkeypatch: pytest.MonkeyPatch, numel: int) -> None:
    w = normal(numel)
    whole = kurtosis(w), gradient_of(w)
    monkeypatch.setattr(module, "CHUNK", 10)
    torch.testing.assert_close((kurtosis(w), gradient_of(w)), whole, rtol=1e-12, atol=1e-12)


def test_a_transposed_weight_keeps_its_gradient_in_place() -> None:
    w = normal(6, 4)
    assert torch.equal(gradient_of(w.t()), gradient_of(w.t().contiguous()))


def test_half_precision_is_computed_in_float32() -> None:
    w = normal(50, 40).bfloat16()
    assert kurtosis(w).dtype == torch.float32
    assert float(kurtosis(w)) == pytest.approx(float(kurtosis(w.float())), rel=1e-6)
    assert gradient_of(w).dtype == torch.bfloat16


@pytest.mark.parametrize("w", [torch.zeros(9), torch.full((70, 70), 0.1), torch.full((33,), -1e6), torch.ones(1)])
def test_a_tensor_without_spread_is_refused(w: Tensor) -> None:
    with pytest.raises(ValueError, match="0/0"):
        kurtosis(w)


def test_a_spread_whose_fourth_power_vanishes_is_refused() -> None:
    w = normal(100).float()
    assert float(kurtosis(1e-8 * w)) == pytest.approx(float(kurtosis(w)), rel=1e-4)
    with pytest.raises(ValueError, match="0/0"):
        kurtosis(1e-11 * w)


def test_nan_is_passed_on() -> None:
    assert math.isnan(float(kurtosis(torch.tensor([1.0, float("nan"), 2.0]))))


@pytest.mark.parametrize("mode, expected", [("avg", 0.72), ("sum", 1.44), ("max", 1.44)])
def test_penalty_of_a_uniform_and_a_normal_tensor(mode: module.Mode, expected: float) -> None:
    kurtoses = [kurtosis(uniform(SAMPLES)), kurtosis(normal(SAMPLES))]
    assert float(kurtosis_penalty(kurtoses, 1.8, mode)) == pytest.approx(expected, rel=0.03)


def test_an_outlying_tensor_owns_the_penalty_and_gives_no_gradient_where_it_is_left_out() -> None:
    tensors = [normal(64, 64, seed=seed) for seed in range(4)]
    tensors[2][0, :2] = 60.0
    for w in tensors:
        w.requires_grad_()
    kurtoses = [kurtosis(w) for w in tensors]
    share = (kurtoses[2] - 1.8) ** 2 / kurtosis_penalty(kurtoses, mode="sum")
    assert float(share.detach()) > 0.999
    kurtosis_penalty(kurtoses[:2] + kurtoses[3:]).backward()
    assert tensors[2].grad is None and tensors[3].grad is not None


def test_a_penalty_on_nothing_or_of_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="no tensors"):
        kurtosis_penalty([])
    with pytest.raises(ValueError, match="avg, sum, max"):
        kurtosis_penalty([torch.tensor(3.0)], mode="mean")  # type: ignore[arg-type]


def test_descent_on_the_penalty_alone_makes_a_normal_tensor_uniform_in_kurtosis() -> None:
    start = normal(10_000).float()
    w = start.clone().requires_grad_()
    for _ in range(200):
        (gradient,) = torch.autograd.grad(kurtosis_penalty([kurtosis(w)]), w)
        with torch.no_grad():
            w -= 50.0 * gradient
    w = w.detach()
    assert float(kurtosis(w)) == pytest.approx(1.8, abs=0.05)
    assert float(w.mean()) == pytest.approx(float(start.mean()), abs=1e-4)
    assert float(w.norm() / start.norm()) == pytest.approx(1.0, abs=0.02)
    ranks = torch.stack([start.argsort().argsort(), w.argsort().argsort()]).double()
    assert float(torch.corrcoef(ranks)[0, 1]) > 0.99


def lemma_quantizer(x: Tensor, step: float, bits: int) -> Tensor:
    """Midpoints of 2^bits cells about zero; beyond them, the end of the last."""
    end = 2 ** (bits - 1) * step
    midpoints = (torch.floor(x / step) + 0.5) * step
    return torch.where(x.abs() > end, x.sign() * end, midpoints)


def mse(x: Tensor, step: float, bits: int) -> float:
    return float((lemma_quantizer(x, step, bits) - x).square().mean())


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("ratio", [0.7, 1.0, 1.05, 1.3, 2.5])
def test_uniform_mse_is_that_of_samples(bits: int, ratio: float) -> None:
    a, samples = 1.5, 200_000
    x = a * (2 * (torch.arange(samples, dtype=torch.float64) + 0.5) / samples - 1)
    step = ratio * best_uniform_step(a, bits)
    assert mse(x, step, bits) == pytest.approx(uniform_mse(a, step, bits), rel=0.01)


@pytest.mark.parametrize("bits", [3, 4, 5])
def test_uniform_mse_is_the_lemma_and_its_minimiser_the_least_of_a_grid(bits: int) -> None:
    a, best = 1.0, best_uniform_step(1.0, bits)
    for step in (0.5 * best, best):
        lemma = (a - 2 ** (bits - 1) * step) ** 3 / (3 * a) + 2**bits * step**3 / (24 * a)
        assert uniform_mse(a, step, bits) == pytest.approx(lemma, rel=1e-12)
    grid = [best * (0.5 + k / 1000) for k in range(1001)]
    assert min(grid, key=lambda step: uniform_mse(a, step, bits)) == pytest.approx(best)


@pytest.mark.parametrize("bits", [4, 5])
def test_with_a_step_up_to_30_percent_too_large_uniform_loses_less_than_normal(bits: int) -> None:
    # Only this side: with too small a step uniform loses more.
    a = math.sqrt(3)
    x = math.sqrt(2) * torch.erfinv(2 * (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000 - 1)
    best = min((0.005 * k for k in range(20, 120)), key=lambda step: mse(x, step, bits))
    for ratio in (1.0, 1.1, 1.2, 1.3):
        assert uniform_mse(a, ratio * best_uniform_step(a, bits), bits) < mse(x, ratio * best, bits)
