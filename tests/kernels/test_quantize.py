"""Laws of uniform quantization (paper notes 1.4; section 6, laws 13, 14, 16, 17)."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qexp.kernels import reference
from qexp.kernels.quantize import QParams, dequantize, fake_quantize, grid, qparams_from_range, quantize

BITS = st.integers(2, 16)
LAWS = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Float32 numbers of very different sizes, some signs only."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    x = torch.randn(draw(st.integers(1, 200)), generator=generator) * 10.0 ** draw(st.integers(-6, 5))
    x = x + draw(st.sampled_from([0.0, 1.0, -3.0])) * x.abs().max()
    return draw(st.sampled_from([x, x.abs(), -x.abs(), x.sign() * x**2]))


def params_of(x: Tensor, bits: int, symmetric: bool) -> QParams:
    return qparams_from_range(x.min(), x.max(), bits, symmetric)


def as_reference(x: Tensor, p: QParams) -> Tensor:
    return reference.fake_quantize(x, p.scale.item(), int(p.zero_point), p.qmin, p.qmax)


def rounding_slack(x: Tensor) -> float:
    """Float32 error of the quotient and of the product, each half a unit in the last place of the largest magnitude."""
    return 2 * torch.finfo(torch.float32).eps * float(x.abs().max())


@LAWS
@given(tensors(), BITS, st.booleans(), st.floats(0.05, 2.0))
def test_equals_the_reference_bit_for_bit(x: Tensor, bits: int, symmetric: bool, shrink: float) -> None:
    p = qparams_from_range(x.min() * shrink, x.max() * shrink, bits, symmetric)
    expected = as_reference(x, p)
    assert torch.equal(fake_quantize(x, p), expected)
    assert torch.equal(fake_quantize((x * 1).requires_grad_(), p), expected)
    assert torch.equal(dequantize(quantize(x, p), p), expected)
    codes = reference.quantize(x, p.scale.item(), int(p.zero_point), p.qmin, p.qmax)
    assert torch.equal(quantize(x, p).long(), codes)


@LAWS
@given(tensors(), BITS, st.booleans())
def test_idempotent(x: Tensor, bits: int, symmetric: bool) -> None:
    p = params_of(x, bits, symmetric)
    once = fake_quantize(x, p)
    assert torch.equal(fake_quantize(once, p), once)
    assert torch.equal(quantize(dequantize(quantize(x, p), p), p), quantize(x, p))


@LAWS
@given(tensors(), BITS, st.booleans())
def test_error_is_at_most_half_a_step_inside_the_range(x: Tensor, bits: int, symmetric: bool) -> None:
    p = params_of(x, bits, symmetric)
    ends = (p.scale * p.low, p.scale * p.high)
    inside = (x >= ends[0]) & (x <= ends[1])
    error = (fake_quantize(x, p) - x).abs()
    assert (error[inside] <= p.scale / 2 + rounding_slack(x)).all()


@LAWS
@given(tensors(), BITS)
def test_asymmetric_grid_covers_range_and_zero_up_to_zero_point_rounding(x: Tensor, bits: int) -> None:
    p = params_of(x, bits, symmetric=False)
    half = p.scale / 2 + rounding_slack(x)
    assert p.scale * p.low - half <= x.min().clamp_max(0)
    assert p.scale * p.high + half >= x.max().clamp_min(0)


@LAWS
@given(tensors(), BITS, st.booleans())
def test_zero_is_exact_and_values_are_few(x: Tensor, bits: int, symmetric: bool) -> None:
    p = params_of(x, bits, symmetric)
    assert fake_quantize(torch.zeros(1), p).item() == 0.0
    assert p.qmax - p.qmin == 2**bits - 1
    assert len(fake_quantize(torch.linspace(-2, 2, 2000) * x.abs().max(), p).unique()) <= 2**bits


@pytest.mark.parametrize("bits", range(2, 17))
@pytest.mark.parametrize("symmetric", [True, False])
def test_every_code_survives_the_way_to_float_and_back(bits: int, symmetric: bool) -> None:
    p = qparams_from_range(torch.tensor(-0.37), torch.tensor(1.11), bits, symmetric)
    codes = torch.arange(p.qmin, p.qmax + 1, dtype=torch.int32)
    assert torch.equal(quantize(dequantize(codes, p), p), codes)


def test_symmetric_grid_is_signed_with_negative_values_and_unsigned_without() -> None:
    p = qparams_from_range(torch.tensor(-1.0), torch.tensor(2.54), 8, symmetric=True)
    assert (p.qmin, p.qmax, p.zero_point.item()) == (-128, 127, 0)
    assert p.scale.item() == pytest.approx(2.54 / 127)
    assert fake_quantize(torch.tensor(-100.0), p).item() == pytest.approx(-128 * 2.54 / 127)
    p = qparams_from_range(torch.tensor(0.0), torch.tensor(2.55), 8, symmetric=True)
    assert (p.qmin, p.qmax, p.zero_point.item()) == (0, 255, 0)
    assert p.scale.item() == pytest.approx(0.01)
    assert qparams_from_range(torch.tensor(0.0), torch.tensor(1.0), 8, symmetric=True, signed=True).qmin == -128


def test_asymmetric_formula() -> None:
    p = qparams_from_range(torch.tensor(-1.0), torch.tensor(3.0), 8, symmetric=False)
    assert (p.qmin, p.qmax) == (0, 255)
    assert p.scale.item() == pytest.approx(4 / 255)
    assert p.zero_point.item() == 64  # round(63.75)
    positive = qparams_from_range(torch.tensor(2.0), torch.tensor(5.1), 8, symmetric=False)
    assert (positive.zero_point.item(), positive.scale.item()) == (0, pytest.approx(0.02))
    negative = qparams_from_range(torch.tensor(-5.1), torch.tensor(-2.0), 8, symmetric=False)
    assert negative.zero_point.item() == 255


@pytest.mark.parametrize("symmetric", [True, False])
def test_all_zeros_stay_zeros(symmetric: bool) -> None:
    x = torch.zeros(5)
    assert torch.equal(fake_quantize(x, params_of(x, 8, symmetric)), x)


def test_ties_go_to_the_even_code() -> None:
    p = QParams(torch.tensor(0.5), torch.tensor(10, dtype=torch.int32), 0, 255)
    x = torch.tensor([0.25, 0.75, 1.25, -0.25, -0.75])
    assert fake_quantize(x, p).tolist() == [0.0, 1.0, 1.0, 0.0, -1.0]


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("symmetric", [True, False])
def test_per_channel_is_each_channel_for_itself(axis: int, symmetric: bool) -> None:
    x = torch.randn(6, 7, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 7)
    p = qparams_from_range(x.amin(1 - axis, keepdim=True), x.amax(1 - axis, keepdim=True), 5, symmetric)
    for i, (channel, result) in enumerate(zip(x.unbind(axis), fake_quantize(x, p).unbind(axis), strict=True)):
        own = QParams(p.scale.flatten()[i], p.zero_point.flatten()[i], p.qmin, p.qmax)
        assert torch.equal(result, as_reference(channel, own))


def test_one_outlier_multiplies_the_error_of_all_others() -> None:
    """The paper's mechanism in one tensor: with an outlier M times the largest value, steps are M times as wide."""
    x = torch.randn(4096, generator=torch.Generator().manual_seed(0))
    factor = 50.0
    with_outlier = torch.cat([x, x.abs().max().view(1) * factor])

    def error(values: Tensor) -> float:
        return float(
            (fake_quantize(values, params_of(values, 8, symmetric=True)) - values)[:4096].square().mean().sqrt()
        )

    assert error(with_outlier) / error(x) == pytest.approx(factor, rel=0.15)


@pytest.mark.parametrize("leaf", [True, False], ids=["parameter", "activation"])
def test_gradient_is_one_inside_and_zero_outside(leaf: bool) -> None:
    p = qparams_from_range(torch.tensor(-1.0), torch.tensor(1.0), 4, symmetric=False)
    x = torch.linspace(-3, 3, 1001).requires_grad_()
    incoming = torch.randn(1001, generator=torch.Generator().manual_seed(0))
    fake_quantize(x if leaf else x * 1, p).backward(incoming)
    code = torch.round(x.detach() / p.scale) + p.zero_point
    inside = (code >= p.qmin) & (code <= p.qmax)
    assert torch.equal(x.grad, incoming * inside)
    assert 0 < inside.sum() < 1001


def test_keeps_one_byte_an_element_and_nothing_new_for_a_parameter() -> None:
    p = qparams_from_range(torch.tensor(-1.0), torch.tensor(1.0), 8, symmetric=True)
    weight = torch.randn(32, 32, requires_grad=True)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        activation = fake_quantize(weight, p)
        fake_quantize(activation, p)
        fake_quantize(weight.detach(), p)
    assert [t.dtype for t in kept] == [torch.float32, torch.bool]
    assert kept[0].data_ptr() == weight.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_keep_theirs_and_half_is_computed_in_float32(dtype: torch.dtype) -> None:
    x = (torch.randn(64, generator=torch.Generator().manual_seed(0)) * 3).to(dtype)
    p = qparams_from_range(x.min(), x.max(), 16, symmetric=False)
    assert fake_quantize(x, p).dtype == dtype
    if dtype != torch.float64:
        assert torch.equal(fake_quantize(x, p), as_reference(x.float(), p).to(dtype))
    leaf = x.clone().requires_grad_()
    fake_quantize(leaf, p).sum().backward()
    assert leaf.grad is not None and leaf.grad.dtype == dtype and bool((leaf.grad == 1).all())


def test_strided_input_is_left_alone_and_gives_the_same() -> None:
    x = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    p = params_of(x, 8, symmetric=False)
    view = x.transpose(1, 2)
    assert torch.equal(fake_quantize(view, p), fake_quantize(x, p).transpose(1, 2))
    leaf = view.clone().requires_grad_()
    fake_quantize((leaf * 1).transpose(0, 1), p).sum().backward()
    assert torch.equal(leaf.grad, torch.ones_like(leaf)) and torch.equal(x, before)


def test_nan_stays_nan() -> None:
    p = qparams_from_range(torch.tensor(-1.0), torch.tensor(1.0), 8, symmetric=False)
    assert fake_quantize(torch.tensor([float("nan"), float("inf")]), p).isnan().tolist() == [True, False]


def test_params_survive_a_deep_copy() -> None:
    p = qparams_from_range(torch.tensor(-1.0), torch.tensor(1.0), 8, symmetric=False)
    fake_quantize(torch.ones(1), p)
    copied = copy.deepcopy(p)
    assert torch.equal(copied.low, p.low) and copied.scale is not p.scale


@pytest.mark.parametrize("bits", [1, 17, 0, -3])
def test_bits_outside_2_to_16_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="bits must be 2..16"):
        grid(bits, signed=True)
    with pytest.raises(ValueError, match="bits"):
        qparams_from_range(torch.tensor(0.0), torch.tensor(1.0), bits, symmetric=False)
