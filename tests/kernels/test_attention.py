"""Laws of clipped softmax (paper notes 1.2; section 6, laws 1-7)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qexp.kernels import reference
from qexp.kernels.attention import clipped_softmax, gamma_from_alpha

GAMMAS = st.floats(-0.2, 0.0)
ZETAS = st.floats(1.0, 1.2)
LAWS = settings(max_examples=60, deadline=None, derandomize=True)
EPS = 2e-7
"""A few roundings of numbers around 1 in float32."""


@st.composite
def scores(draw: st.DrawFn) -> Tensor:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    shape = (draw(st.integers(1, 4)), draw(st.integers(1, 40)))
    return torch.randn(*shape, generator=generator) * draw(st.sampled_from([0.1, 1.0, 5.0, 30.0]))


@LAWS
@given(scores())
def test_neutral_setting_is_softmax_bit_for_bit(x: Tensor) -> None:
    assert torch.equal(clipped_softmax(x, 0.0, 1.0), torch.softmax(x, -1))
    assert torch.equal(clipped_softmax(x, 0.0, 1.0, dim=0), torch.softmax(x, 0))


@LAWS
@given(scores(), GAMMAS, ZETAS)
def test_is_the_reference(x: Tensor, gamma: float, zeta: float) -> None:
    expected = torch.tensor([reference.clipped_softmax(row, gamma, zeta) for row in x.tolist()])
    assert torch.allclose(clipped_softmax(x, gamma, zeta), expected, rtol=0, atol=1e-6)


@LAWS
@given(scores(), st.floats(-0.2, -0.001), ZETAS)
def test_zero_and_one_sets_range_and_monotony(x: Tensor, gamma: float, zeta: float) -> None:
    p, y = torch.softmax(x, -1), clipped_softmax(x, gamma, zeta)
    zero, one = -gamma / (zeta - gamma), (1 - gamma) / (zeta - gamma)
    assert (y[p <= zero - EPS] == 0).all() and (y[p > zero + EPS] > 0).all()
    assert (y[p >= one + EPS] == 1).all() and (y[p < one - EPS] < 1).all()
    assert y.min() >= 0 and y.max() <= 1
    assert (y.gather(-1, p.argsort(-1)).diff(dim=-1) >= 0).all()


@LAWS
@given(scores(), GAMMAS, st.floats(-50, 50))
def test_shift_invariant(x: Tensor, gamma: float, shift: float) -> None:
    # The shift itself rounds the scores, by half a unit in the last place of numbers up to 200.
    assert torch.allclose(clipped_softmax(x + shift, gamma), clipped_softmax(x, gamma), rtol=0, atol=1e-4)


@LAWS
@given(scores(), GAMMAS)
def test_row_sums_and_distance_to_softmax(x: Tensor, gamma: float) -> None:
    p, y = torch.softmax(x, -1), clipped_softmax(x, gamma)
    n = x.shape[-1]
    assert torch.allclose((p * (1 - gamma) + gamma).sum(-1), torch.tensor(1 - gamma + gamma * n), atol=1e-4)
    assert (y.sum(-1) >= 1 - gamma + gamma * n - 1e-4).all()
    assert (y.sum(-1) <= 1 + 1e-5).all()
    assert ((y - p).abs() <= -gamma + EPS).all()


@LAWS
@given(st.floats(-0.5, 0.0), st.floats(-100, 100))
def test_a_row_of_one_entry_is_exactly_one(gamma: float, score: float) -> None:
    assert clipped_softmax(torch.tensor([[score]]), gamma).item() == 1.0


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.0, 12.0])
@pytest.mark.parametrize("length", [4, 128])
def test_uniform_row(alpha: float, length: int) -> None:
    x = torch.zeros(length, requires_grad=True)
    y = clipped_softmax(x, gamma_from_alpha(alpha, length))
    expected = max(0.0, (1 + alpha / length - alpha) / length)
    assert y.tolist() == pytest.approx([expected] * length, abs=EPS)
    y[0].backward()
    if alpha >= length / (length - 1):
        assert (y == 0).all() and x.grad is not None and (x.grad == 0).all()
    else:
        assert x.grad is not None and (x.grad != 0).any()


def test_gradient_is_the_stretched_jacobian_and_zero_through_clipped_entries() -> None:
    gamma, zeta = -0.05, 1.02
    x = torch.randn(3, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2
    p = torch.softmax(x, -1)
    incoming = torch.randn(3, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    stretched = (zeta - gamma) * p + gamma
    alive = incoming * ((stretched > 0) & (stretched < 1))
    expected = (zeta - gamma) * p * (alive - (alive * p).sum(-1, keepdim=True))
    leaf = x.clone().requires_grad_()
    clipped_softmax(leaf, gamma, zeta).backward(incoming)
    assert torch.allclose(leaf.grad, expected, rtol=1e-9, atol=1e-12)
    assert 0 < (alive != 0).sum() < alive.numel()


def test_masked_positions_stay_exactly_zero() -> None:
    x = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    x[:, 4:] = torch.finfo(torch.float32).min
    for gamma, zeta in ((0.0, 1.0), (-0.03, 1.0), (0.0, 1.03), (-0.03, 1.03)):
        assert (clipped_softmax(x, gamma, zeta)[:, 4:] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    x = torch.randn(4, 30, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(clipped_softmax(x, -0.02), clipped_softmax(x.float(), -0.02).to(dtype))


def test_gamma_from_alpha() -> None:
    assert gamma_from_alpha(12, 512) == -12 / 512
    assert gamma_from_alpha(0, 10) == 0.0


@pytest.mark.parametrize("gamma, zeta", [(0.1, 1.0), (0.0, 0.9), (float("nan"), 1.0)])
def test_bad_settings_are_refused(gamma: float, zeta: float) -> None:
    with pytest.raises(ValueError, match="gamma <= 0 and zeta >= 1"):
        clipped_softmax(torch.zeros(3), gamma, zeta)
    with pytest.raises(ValueError, match="alpha"):
        gamma_from_alpha(-1.0, 8)
    with pytest.raises(ValueError, match="length"):
        gamma_from_alpha(1.0, 0)
