"""Laws of the building block, the constraints and the rule sets (paper notes 1.1, 1.2, 1.6; section 6, law 1)."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from qexp.kernels.unit_scaling.constraints import CONSTRAINTS, geometric_mean, none, to_output
from qexp.kernels.unit_scaling.rules import PAPER, RULES, U_MUP, WEIGHT_EXPONENTS
from qexp.kernels.unit_scaling.scale import scaled


@pytest.mark.parametrize("alpha, beta", [(2.0, 3.0), (1.0, 3.0), (2.0, 1.0), (2.0, 2.0), (1.0, 1.0), (0.3, 0.7)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_alpha_acts_forward_and_beta_backward_only(alpha: float, beta: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, generator=generator).to(dtype).requires_grad_()
    incoming = torch.randn(50, generator=generator).to(dtype)
    y = scaled(x, alpha, beta)
    (gradient,) = torch.autograd.grad(y, x, incoming)
    assert torch.equal(y, alpha * x) and y.dtype == dtype
    assert torch.equal(gradient, beta * incoming)


def test_neutral_factors_are_the_tensor_itself_and_the_input_is_left_alone() -> None:
    x = torch.randn(5, requires_grad=True)
    assert scaled(x) is x
    before = x.detach().clone()
    scaled(x, 2.0, 3.0).add_(1.0)
    assert torch.equal(x, before)


def test_second_derivatives_are_refused() -> None:
    """A derivative of a gradient that is not one of the forward function has no meaning."""
    x = torch.tensor(1.5, requires_grad=True)
    (first,) = torch.autograd.grad(scaled(x, 2.0, 3.0) ** 3, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.backward()


def test_constraints() -> None:
    factors = (0.5, 2.0, 8.0)
    assert geometric_mean(*factors) == (math.prod(factors) ** (1 / 3),) * 3 == pytest.approx((2.0, 2.0, 2.0))
    assert geometric_mean(0.25, 4.0) == (1.0, 1.0)
    assert to_output(*factors) == (0.5, 0.5, 0.5)
    assert none(*factors) == factors
    for constraint in CONSTRAINTS.values():
        assert constraint(0.7) == pytest.approx((0.7,))


def test_the_two_rule_sets_differ_where_they_are_known_to() -> None:
    assert RULES == {"paper": PAPER, "u_mup": U_MUP}
    assert (PAPER.constraint, U_MUP.constraint) == (geometric_mean, to_output)
    assert (PAPER.logit_exponent, U_MUP.logit_exponent) == (-0.5, -1.0)
    assert (PAPER.readout_exponent, U_MUP.readout_exponent) == (-0.5, -1.0)
    assert (PAPER.rms_norm_gain, U_MUP.rms_norm_gain) == (True, False)
    assert PAPER.attention(256, 64, True) == PAPER.attention(256, 64, False) == math.sqrt(256 / math.e)
    flat = U_MUP.attention(256, 10**9, False), U_MUP.attention(256, 10**9, True)
    assert flat == pytest.approx((16.0, 16.0 / math.sqrt(math.log(256))))
    assert 1.0 < U_MUP.attention(256, 1, False) < 16.0
    assert U_MUP.attention(1, 64, True) == 1.0


def test_free_lifts_only_the_constraint() -> None:
    assert PAPER.free == replace(PAPER, constraint=none)
    assert U_MUP.free.readout_exponent == -1.0


def test_weight_exponents_are_the_three_documented_ones() -> None:
    assert WEIGHT_EXPONENTS == (-0.5, -0.75, -1.0)
    for exponent in WEIGHT_EXPONENTS:
        assert replace(PAPER, weight_exponent=exponent).weight_exponent == exponent
    with pytest.raises(ValueError, match="one of -0.5, -0.75, -1.0, got -0.6"):
        replace(PAPER, weight_exponent=-0.6)
