"""Quantizers in training: bit-equal to the grid they hand over, with the gradients of LSQ and LSQ+."""

from __future__ import annotations

import pytest
import torch

from qexp.kernels.quantize import fake_quantize, qparams_from_range
from qexp.kernels.trained_quantizers import CurrentRange, LearntRange, RunningRange, TrainedQuantizer

KINDS = (TrainedQuantizer, CurrentRange, RunningRange, LearntRange)
GRIDS = [(symmetric, bits) for symmetric in (True, False) for bits in (2, 4, 8, 16)]


def sample(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def grid_of(x, bits=4, symmetric=False, shrink=1.0):
    return qparams_from_range(x.min() * shrink, x.max() * shrink, bits, symmetric)


def started(kind, x, bits=4, symmetric=False, shrink=1.0, **settings):
    quantizer = kind(bits, symmetric, **settings)
    quantizer.start(grid_of(x, bits, symmetric, shrink))
    return quantizer


@pytest.mark.parametrize("kind", KINDS)
def test_until_it_is_started_it_is_the_identity(kind):
    x = sample(5, 7)
    quantizer = kind(8, True)
    assert quantizer(x) is x
    with pytest.raises(ValueError, match="calibrate"):
        quantizer.qparams  # noqa: B018


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("symmetric", "bits"), GRIDS)
def test_it_computes_the_grid_that_it_hands_over(kind, symmetric, bits):
    x = sample(40, 7)
    quantizer = started(kind, x, bits, symmetric)
    for train in (True, False):
        y = quantizer.train(train)(x)
        assert torch.equal(y, fake_quantize(x, quantizer.qparams))
        if kind is RunningRange:  # its ends are two products, not the step: one rounding apart
            assert torch.allclose(quantizer.qparams.scale, grid_of(x, bits, symmetric).scale, rtol=1e-6)
        else:
            assert torch.equal(y, fake_quantize(x, grid_of(x, bits, symmetric)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_state_continues_where_it_was(kind):
    x = sample(40, 7)
    quantizer = started(kind, x)
    quantizer(sample(40, 7, seed=1))
    other = kind(4, False)
    other.load_state_dict(quantizer.state_dict())
    assert torch.equal(other.eval()(x), quantizer.eval()(x))
    assert other.qparams.qmin == quantizer.qparams.qmin


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_gradient_is_one_inside_and_zero_outside(kind, symmetric):
    x = sample(50, 9).requires_grad_()
    quantizer = started(kind, x.detach(), symmetric=symmetric, shrink=0.5).eval()
    if kind is CurrentRange:
        pytest.skip("its range is the tensor's own: nothing lies outside")
    quantizer(x).sum().backward()
    p = quantizer.qparams
    unclamped = torch.round(x.detach() / p.scale)
    assert torch.equal(x.grad, ((unclamped >= p.low) & (unclamped <= p.high)).float())


def test_a_current_range_follows_the_tensor():
    x = sample(6, 8)
    quantizer = started(CurrentRange, x, 8, True)
    assert torch.equal(quantizer(3 * x), fake_quantize(3 * x, grid_of(3 * x, 8, True)))
    rows = CurrentRange(8, True, (6, 1), channel_axis=0)
    rows.start(qparams_from_range(x.amin(1, True), x.amax(1, True), 8, True))
    assert torch.equal(
        rows(2 * x), fake_quantize(2 * x, qparams_from_range(*(e(1, True) * 2 for e in (x.amin, x.amax)), 8, True))
    )


def test_a_running_range_moves_in_training_only_and_before_it_is_used():
    x = sample(60, 8)
    quantizer = started(RunningRange, x, 8, momentum=0.75)
    before = quantizer.qparams
    quantizer.eval()(5 * x)
    assert torch.equal(quantizer.qparams.scale, before.scale)
    y = quantizer.train()(5 * x)
    lo, hi = before.low * before.scale, before.high * before.scale
    expected = qparams_from_range(0.75 * lo + 0.25 * 5 * x.min(), 0.75 * hi + 0.25 * 5 * x.max(), 8, False)
    assert torch.allclose(quantizer.qparams.scale, expected.scale, rtol=1e-6)
    assert torch.equal(y, fake_quantize(5 * x, quantizer.qparams))
    quantizer.moving = False
    kept = quantizer.qparams
    quantizer(50 * x)
    assert torch.equal(quantizer.qparams.scale, kept.scale)


def reference_gradients(x, gradient, p, learn_offset):
    """The formulas of LSQ and LSQ+, element by element in float64."""
    v = x.double() / p.scale.double()
    codes = torch.round(v)
    below, above = codes < p.low, codes > p.high
    step = codes - v
    step = torch.where(below, p.low.double() - (p.low.double() if learn_offset else 0.0), step)
    step = torch.where(above, p.high.double() - (p.low.double() if learn_offset else 0.0), step)
    factor = 1 / (x.numel() * p.qmax) ** 0.5
    return (gradient * step).sum() * factor, (gradient * (below | above)).sum() * factor


@pytest.mark.parametrize("learn_offset", [True, False])
@pytest.mark.parametrize(("symmetric", "bits"), GRIDS)
@pytest.mark.parametrize("shrink", [0.3, 1.0])
def test_gradients_of_step_and_offset_are_the_papers(symmetric, bits, shrink, learn_offset):
    x, gradient = sample(30, 20), sample(30, 20, seed=3)
    quantizer = started(LearntRange, x, bits, symmetric, shrink, learn_offset=learn_offset)
    quantizer(x.requires_grad_()).backward(gradient)
    scale, offset = reference_gradients(
        x.detach(), gradient.double(), quantizer.qparams, learn_offset and not symmetric
    )
    # The sums cancel: their rounding is that of the sums of magnitudes, in float32.
    size = (gradient.abs().sum() * 2.0**bits / (x.numel() * 2.0 ** (bits - 1)) ** 0.5).item()
    assert quantizer.scale.grad.item() == pytest.approx(scale.item(), abs=1e-5 * size, rel=1e-3)
    if quantizer.offset is None:
        assert symmetric or not learn_offset
    else:
        assert quantizer.offset.grad.item() == pytest.approx(offset.item(), abs=1e-5 * size, rel=1e-4)


def test_outside_the_gradient_of_the_step_is_the_derivative_itself():
    x = torch.tensor([100.0, -100.0, 90.0])
    quantizer = LearntRange(4, False)
    quantizer.start(qparams_from_range(torch.tensor(-1.0), torch.tensor(2.0), 4, False))

    def output(scale, offset):
        probe = LearntRange(4, False)
        probe.load_state_dict(quantizer.state_dict())
        with torch.no_grad():
            probe.scale.fill_(scale)
            probe.offset.fill_(offset)
            return probe(x).sum().item()

    quantizer(x.requires_grad_()).sum().backward()
    factor = (15 * x.numel()) ** -0.5
    scale, offset, by = quantizer.scale.item(), quantizer.offset.item(), 2.0**-6
    # Steps of the offset by whole steps of the grid, since the zero point is an integer.
    moved = (output(scale, offset + scale) - output(scale, offset)) / scale
    assert quantizer.offset.grad.item() / factor == pytest.approx(moved, rel=1e-4)
    # With offset / scale kept whole, the high end moves by qmax and the low end by nothing.
    high = (output(scale + by, -5 * (scale + by)) - output(scale, -5 * scale)) / by
    assert quantizer.scale.grad.item() / factor + 3 * -5 == pytest.approx(high, rel=1e-3)


def test_channels_have_steps_of_their_own():
    x, gradient = sample(6, 40), sample(6, 40, seed=3)
    whole = LearntRange(4, True, (6, 1))
    whole.start(qparams_from_range(x.amin(1, True) / 2, x.amax(1, True) / 2, 4, True))
    whole(x.requires_grad_()).backward(gradient)
    for row in range(6):
        one = LearntRange(4, True)
        one.start(qparams_from_range(x.detach()[row].min() / 2, x.detach()[row].max() / 2, 4, True))
        one(x.detach()[row].requires_grad_()).backward(gradient[row])
        assert whole.scale.grad[row].item() == pytest.approx(one.scale.grad.item(), rel=1e-4, abs=1e-6)


def test_a_step_stays_positive():
    quantizer = started(LearntRange, sample(9))
    with torch.no_grad():
        quantizer.scale.fill_(-3.0)
    quantizer.keep_positive()
    assert quantizer.scale.item() > 0


@pytest.mark.parametrize("bits", [1, 17])
def test_widths_that_no_grid_has_are_refused(bits):
    with pytest.raises(ValueError, match="bits"):
        TrainedQuantizer(bits, True)
