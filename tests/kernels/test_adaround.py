"""Learnt rounding: what it starts from, where it ends, and that outputs change less than with rounding to nearest."""

from __future__ import annotations

import pytest
import torch

from qexp.kernels.adaround import (
    Recipe,
    beta_at,
    gradient,
    hard_quantize,
    initial_rounding,
    learn_rounding,
    reconstruction_error,
    rectified_sigmoid,
    soft_weight,
    span,
)
from qexp.kernels.quantize import QParams, fake_quantize, qparams_from_range, quantize


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def a_weight(bits=4, per_channel=False, symmetric=True):
    """A weight [12, 16] and the grid of its range."""
    weight = 0.1 * torch.randn(12, 16, generator=seeded(1))
    axis = {"dim": 1, "keepdim": True} if per_channel else {}
    return weight, qparams_from_range(weight.amin(**axis), weight.amax(**axis), bits, symmetric)


def soft_quantize(weight, v, p):
    """Eq. 22, as it is written."""
    return ((weight / p.scale).floor() + rectified_sigmoid(v)).clamp(p.low, p.high) * p.scale


def rounding_loss(v, beta):
    """Eq. 24: 0 where every h is 0 or 1, one for each h of a half."""
    return (1.0 - (2.0 * rectified_sigmoid(v) - 1.0).abs().pow(beta)).sum()


def correlated_rows(rows=600):
    return torch.randn(rows, 16, generator=seeded(2)) @ (0.5 * torch.randn(16, 16, generator=seeded(3))) + 0.3


GRIDS = [{"bits": b, "per_channel": c, "symmetric": s} for b in (2, 4, 8) for c in (True, False) for s in (True, False)]


def test_the_stretched_sigmoid_reaches_both_ends_and_is_half_at_zero():
    h = rectified_sigmoid(torch.tensor([-2.5, 0.0, 2.5]))
    assert h.tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("kind", GRIDS, ids=str)
def test_initially_h_is_the_fraction_and_nothing_is_rounded(kind):
    weight, p = a_weight(**kind)
    v, steps = initial_rounding(weight, p), weight / p.scale
    torch.testing.assert_close(rectified_sigmoid(v), steps - steps.floor(), rtol=0, atol=2e-6)
    inside = (steps >= p.low) & (steps <= p.high)
    torch.testing.assert_close(soft_quantize(weight, v, p)[inside], weight[inside])


@pytest.mark.parametrize("kind", GRIDS, ids=str)
def test_initially_hard_rounding_is_rounding_to_nearest(kind):
    weight, p = a_weight(**kind)
    assert torch.equal(hard_quantize(weight, initial_rounding(weight, p), p), fake_quantize(weight, p))


@pytest.mark.parametrize("kind", GRIDS, ids=str)
def test_hard_rounding_is_the_floor_or_one_step_more_and_stays_on_its_grid(kind):
    weight, p = a_weight(**kind)
    rounded = hard_quantize(weight, torch.randn(weight.shape, generator=seeded(4)), p)
    floor = (weight / p.scale).floor().clamp(p.low, p.high)
    assert set((rounded / p.scale).round().sub(floor).unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(fake_quantize(rounded, p), rounded)
    assert len(quantize(rounded, p).unique()) <= 2 ** kind["bits"]


@pytest.mark.parametrize("kind", GRIDS, ids=str)
@pytest.mark.parametrize("narrow", [1.0, 0.5], ids=["whole_range", "half_of_it"])
@pytest.mark.parametrize("beta", [None, 2.0, 20.0])
def test_soft_weights_and_gradient_are_those_of_the_equations(kind, narrow, beta):
    weight, p = a_weight(**kind)
    p = QParams((p.scale * narrow).double(), p.zero_point, p.qmin, p.qmax)
    weight, x, lam = weight.double(), correlated_rows(40).double(), 0.3
    target = torch.randn(40, 12, generator=seeded(5), dtype=torch.float64)
    v = (3.0 * torch.randn(weight.shape, generator=seeded(4), dtype=torch.float64)).requires_grad_()
    loss = (x @ soft_quantize(weight, v, p).t() - target).square().sum(1).mean()
    loss = loss if beta is None else loss + lam * rounding_loss(v, beta)
    loss.backward()
    below, gap = span(weight, p)
    torch.testing.assert_close(soft_weight(below, gap, rectified_sigmoid(v)), soft_quantize(weight, v, p))
    torch.testing.assert_close(gradient(v.detach(), below, gap, x, target, beta, lam), v.grad)


def test_the_regulariser_leaves_decided_weights_alone_and_pushes_others_to_the_nearer_end():
    nothing, v = torch.zeros(1, 5), torch.tensor([[-9.0, -0.5, 0.0, 0.5, 9.0]])
    pushed = gradient(v, nothing, nothing, torch.zeros(1, 5), torch.zeros(1, 1), 2.0, 1.0)
    assert pushed.sign().tolist() == [[0.0, 1.0, 0.0, -1.0, 0.0]]


def test_beta_falls_from_twenty_to_two_after_the_warm_up():
    betas = [beta_at(step, 100) for step in range(100)]
    assert betas[:20] == [None] * 20 and betas[20] == 20.0
    assert betas[20:] == sorted(betas[20:], reverse=True) and 2.0 < betas[-1] < 2.01


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("steps", [1, 100])
def test_outputs_never_change_more_than_with_rounding_to_nearest(bits, steps):
    weight, p = a_weight(bits)
    x = correlated_rows()
    found = learn_rounding(weight, p, x, x @ weight.t(), Recipe(steps, 64, 0.05, 0.01), seeded())
    nearest = reconstruction_error(fake_quantize(weight, p), x, x @ weight.t())
    assert found.nearest_error == nearest and found.error <= nearest
    assert found.error == reconstruction_error(found.weight, x, x @ weight.t())
    assert torch.equal(fake_quantize(found.weight, p), found.weight)


@pytest.mark.parametrize("per_channel", [True, False])
def test_at_four_bits_they_change_by_far_less(per_channel):
    weight, p = a_weight(4, per_channel)
    x = correlated_rows()
    found = learn_rounding(weight, p, x, x @ weight.t(), Recipe(150, 64, 0.05, 0.01), seeded())
    assert found.error < 0.7 * found.nearest_error


def test_it_closes_most_of_the_gap_to_the_best_of_all_roundings():
    """Against all 2^6 roundings of each output's weights."""
    weight, x = 0.1 * torch.randn(8, 6, generator=seeded(6)), correlated_rows()[:, :6]
    p, targets = qparams_from_range(weight.min(), weight.max(), 3, True), x @ weight.t()
    choices = torch.cartesian_prod(*[torch.tensor([-9.0, 9.0])] * 6)
    outputs = torch.stack([x @ hard_quantize(weight, v.expand(8, 6), p).t() for v in choices])
    best = float((outputs - targets).square().mean(1).amin(0).sum())
    found = learn_rounding(weight, p, x, targets, Recipe(200, 64, 0.05, 0.01), seeded())
    assert found.error - best < 0.3 * (found.nearest_error - best)


def test_the_same_seed_gives_the_same_rounding():
    weight, p = a_weight()
    x = correlated_rows()
    recipe = Recipe(40, 32, 1e-2, 0.01)
    first, again = (learn_rounding(weight, p, x, x @ weight.t(), recipe, seeded()) for _ in range(2))
    assert torch.equal(first.weight, again.weight)


def test_a_transposed_weight_has_the_same_rounding():
    weight, p = a_weight()
    x, recipe = correlated_rows(), Recipe(40, 32, 1e-2, 0.01)
    same = weight.t().contiguous().t()
    first, again = (learn_rounding(w, p, x, x @ weight.t(), recipe, seeded()) for w in (weight, same))
    assert torch.equal(first.weight, again.weight)


def test_errors_are_taken_over_all_rows_in_pieces(monkeypatch):
    weight, x = torch.randn(3, 16, generator=seeded(6)), correlated_rows(10)
    targets = torch.randn(10, 3, generator=seeded(7))
    expected = (x @ weight.t() - targets).square().sum(1).mean()
    monkeypatch.setattr("qexp.kernels.adaround.ROWS_AT_ONCE", 4)
    assert reconstruction_error(weight, x, targets) == pytest.approx(float(expected), rel=1e-6)
