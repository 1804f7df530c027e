"""A range that follows its input: bit-equal to min-max quantization, and blind to a common factor."""

from __future__ import annotations

import pytest
import torch

from qexp.kernels.following_range import FollowingRange
from qexp.kernels.quantize import fake_quantize, qparams_from_range


def following(x, symmetric):
    quantizer = FollowingRange(8, symmetric)
    quantizer.start(qparams_from_range(x.min(), x.max(), 8, symmetric))
    quantizer.following = True
    return quantizer


def channels(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(64, 6, generator=generator) * torch.tensor([0.1, 1.0, 1.0, 3.0, 9.0, 30.0])


@pytest.mark.parametrize("symmetric", [True, False])
def test_it_is_the_batch_s_own_min_max_grid(symmetric):
    x = channels()
    quantizer = following(x, symmetric)
    y = 3 * channels(seed=1)
    assert torch.equal(quantizer(y), fake_quantize(y, qparams_from_range(y.min(), y.max(), 8, symmetric)))
    quantizer.following = False
    assert torch.equal(quantizer(y), fake_quantize(y, qparams_from_range(x.min(), x.max(), 8, symmetric)))


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_gradient_of_a_common_factor_is_zero(symmetric):
    x, weight = channels().double(), torch.randn(6, generator=torch.Generator().manual_seed(2)).double()
    log_alpha = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    alpha = log_alpha.exp()
    y = following(x, symmetric)(alpha * x) / alpha
    ((y - x) * weight).square().sum().backward()
    gradient = log_alpha.grad
    assert gradient.abs().sum() > 1.0
    assert abs(gradient.sum().item()) < 1e-4 * gradient.abs().sum().item()  # scale is float32


def test_a_common_factor_of_two_changes_no_bit():
    x = channels()
    quantizer = following(x, False)
    assert torch.equal(quantizer(4 * x) / 4, quantizer(x))
