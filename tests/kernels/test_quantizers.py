"""The quantizer module: its modes, its life from estimate to state dict, and its errors."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from qexp.kernels.quantize import fake_quantize, qparams_from_range
from qexp.kernels.quantizers import Quantizer
from qexp.kernels.ranges import make_estimator


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quantizer(bits: int = 8, symmetric: bool = False, axis: int | None = None) -> Quantizer:
    estimator = make_estimator("running_minmax", bits=bits, symmetric=symmetric, channel_axis=axis)
    return Quantizer(bits, symmetric, estimator, "per_tensor" if axis is None else "per_channel")


def frozen(x: Tensor, **settings: int) -> Quantizer:
    q = quantizer(**settings)
    q.mode = "estimate"
    q(x)
    q.freeze()
    return q


def test_off_returns_the_tensor_itself() -> None:
    x = normal(3)
    assert quantizer()(x) is x


def test_estimate_quantizes_with_what_is_known_so_far() -> None:
    q = quantizer()
    q.mode = "estimate"
    first, second = normal(10), normal(10, seed=1) * 5
    assert torch.equal(q(first), fake_quantize(first, qparams_from_range(first.min(), first.max(), 8, False)))
    result = q(second)
    assert torch.equal(result, fake_quantize(second, q.qparams))
    assert float(q.qparams.scale * 255) == pytest.approx(
        0.9 * float(first.max() - first.min()) + 0.1 * float(second.max() - second.min()), rel=1e-5
    )


def test_frozen_range_no_longer_moves() -> None:
    x = normal(4, 5)
    q = frozen(x)
    assert q.mode == "quantize"
    assert torch.equal(q(x), fake_quantize(x, qparams_from_range(x.min(), x.max(), 8, False)))
    before = q.qparams.scale.clone()
    q(x * 100)
    assert torch.equal(q.qparams.scale, before)


@pytest.mark.parametrize("axis", [0, 1])
def test_per_channel_shapes(axis: int) -> None:
    q = frozen(normal(4, 6), symmetric=True, axis=axis)
    assert q.qparams.scale.shape == ((4, 1) if axis == 0 else (1, 6))
    assert torch.equal(q.qparams.zero_point, torch.zeros_like(q.qparams.zero_point))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("mode", ["estimate", "quantize"])
def test_per_token_takes_each_tokens_own_range(symmetric: bool, mode: str) -> None:
    x = normal(2, 3, 16) * torch.logspace(-3, 3, 6).view(2, 3, 1)
    q = Quantizer(8, symmetric, granularity="per_token")
    q.freeze()
    q.mode = mode  # type: ignore[assignment]
    result = q(x)
    for token, quantized in zip(x.flatten(0, 1), result.flatten(0, 1), strict=True):
        p = qparams_from_range(token.min(), token.max(), 8, symmetric)
        assert torch.equal(quantized, fake_quantize(token, p))


def test_per_token_symmetric_keeps_the_signed_grid_for_positive_data() -> None:
    x = normal(1, 64).abs()
    result = Quantizer(8, True, granularity="per_token")
    result.mode = "quantize"
    assert torch.equal(result(x), fake_quantize(x, qparams_from_range(x.min(), x.max(), 8, True, signed=True)))


def test_gradient_passes_straight_through() -> None:
    x = normal(8).requires_grad_()
    q = frozen(x.detach())
    q(x).sum().backward()
    assert torch.equal(x.grad, torch.ones(8))


@pytest.mark.parametrize("axis", [None, 0])
@pytest.mark.parametrize("positive", [True, False])
def test_state_dict_round_trip(axis: int | None, positive: bool) -> None:
    x = normal(4, 6).abs() if positive else normal(4, 6)
    source = frozen(x, symmetric=True, axis=axis)
    state = source.state_dict()
    assert set(state) == {"scale", "zero_point", "qmin"}
    for target in (quantizer(symmetric=True, axis=axis), frozen(normal(4, 6, seed=3), symmetric=True, axis=axis)):
        target.load_state_dict(state)
        target.mode = "quantize"
        assert torch.equal(target(x * 1.5), source(x * 1.5))
        assert target.qparams.qmin == (0 if positive else -128)


def test_unfrozen_state_dict_is_empty_and_nested_loading_works() -> None:
    assert not quantizer().state_dict()
    x = normal(5)
    source = nn.Sequential(nn.Identity(), frozen(x))
    target = nn.Sequential(nn.Identity(), Quantizer(8, False))
    target.load_state_dict(source.state_dict())
    assert isinstance(target[1], Quantizer)
    target[1].mode = "quantize"
    assert torch.equal(target(x), source(x))


def test_deep_copy_is_independent() -> None:
    x = normal(5)
    source = frozen(x)
    copied = copy.deepcopy(source)
    assert torch.equal(copied(x), source(x))
    copied.mode = "estimate"
    copied(x * 7)
    copied.freeze()
    assert not torch.equal(copied.qparams.scale, source.qparams.scale)
    assert torch.equal(source(x), frozen(x)(x))


def test_casting_the_model_leaves_the_range_in_full_precision() -> None:
    q = frozen(normal(50), bits=16)
    before = q.qparams
    nn.Sequential(q).half()
    assert q.qparams.scale.dtype == torch.float32 and torch.equal(q.qparams.scale, before.scale)
    assert torch.equal(q.qparams.zero_point, before.zero_point)
    assert q(normal(50).half()).dtype == torch.float16


def test_moving_moves_the_range_in_use() -> None:
    q = frozen(normal(5)).to("meta")
    assert q.qparams.scale.device.type == "meta" and q.qparams.qmax == 255


def test_errors() -> None:
    with pytest.raises(ValueError, match="no data"):
        quantizer().freeze()
    q = quantizer()
    q.mode = "quantize"
    with pytest.raises(ValueError, match="freeze"):
        q(normal(3))
    q = Quantizer(8, False)
    q.mode = "estimate"
    with pytest.raises(ValueError, match="estimator"):
        q(normal(3))
    with pytest.raises(ValueError, match="bits"):
        Quantizer(17, False)
    with pytest.raises(ValueError, match="granularity"):
        Quantizer(8, False, granularity="per_row")  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_freeze_refuses_values_that_are_not_finite(bad: float) -> None:
    q = quantizer()
    q.mode = "estimate"
    q(torch.tensor([1.0, bad]))
    q(torch.tensor([1.0, 2.0]))
    with pytest.raises(ValueError, match="NaN or infinity"):
        q.freeze()
