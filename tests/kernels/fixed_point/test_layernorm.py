"""Layer normalisation: exact integer sums, torch's own at 16 bits, gradients too."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from qexp.kernels import reference
from qexp.kernels.fixed_point.layernorm import layer_norm, layer_norm_gradients
from qexp.kernels.fixed_point.linear import Arithmetic
from qexp.kernels.fixed_point.mapping import NotFiniteError
from qexp.kernels.fixed_point.operand import OutlierFormat
from qexp.kernels.fixed_point.outliers import Threshold

EPS = 1e-5
SIXTEEN = Arithmetic(16, 16, 16, gradient_rounding="nearest")


def tensors(m=17, n=48, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, g = torch.randn(m, n, generator=generator) * 2 + 0.7, torch.randn(m, n, generator=generator) * 1e-3
    return x, 1 + 0.2 * torch.randn(n, generator=generator), torch.randn(n, generator=generator), g


def near(found, expected):
    return (found - expected).norm() <= 1e-3 * expected.norm()


def test_sixteen_bits_are_torchs(path):
    x, gain, bias, g = tensors()
    leaves = [t.clone().requires_grad_() for t in (x, gain, bias)]
    expected = F.layer_norm(leaves[0], x.shape[1:], *leaves[1:], eps=EPS)
    expected.backward(g)
    y, saved = layer_norm(x, gain, bias, EPS, SIXTEEN)
    assert y.dtype == torch.float32 and near(y, expected.detach())
    for found, leaf in zip(layer_norm_gradients(g, saved, SIXTEEN), leaves, strict=True):
        assert found.dtype == torch.float32 and found.shape == leaf.shape and near(found, leaf.grad)


@pytest.mark.parametrize("bits", [4, 8, 12, 16])
def test_the_statistics_are_those_of_the_integers(bits, path):
    x, gain, *_ = tensors(m=5, n=33)
    _, saved = layer_norm(x, gain, None, EPS, Arithmetic(activation_bits=bits))
    codes, exponent = reference.fixed_point(x, bits)
    spreads = [reference.integer_spread(row) for row in codes.tolist()]
    units = [EPS * len(gain) ** 2 / 2.0 ** (2 * exponent)] * len(x)
    roots = [math.sqrt(spread + unit) for (_, spread), unit in zip(spreads, units, strict=True)]
    sigma = [root * 2.0**exponent / len(gain) for root in roots]
    torch.testing.assert_close(saved.inverse_deviation.flatten(), 1 / torch.tensor(sigma, dtype=torch.float64))
    values = torch.tensor([[c / root for c in centred] for (centred, _), root in zip(spreads, roots, strict=True)])
    assert torch.equal(saved.values.to_float(), Arithmetic(activation_bits=bits).activations(values).to_float())


def test_outputs_and_gradients_are_products_of_integers(path):
    x, gain, bias, g = tensors(m=6, n=20)
    a = Arithmetic(gradient_rounding="nearest")
    y, saved = layer_norm(x, gain, bias, EPS, a)
    values, factor, incoming = saved.values.to_float(), saved.gain.to_float(), a.gradients(g).to_float()
    assert torch.equal(y, (values * factor).float() + bias)
    dx, dgain, dbias = layer_norm_gradients(g, saved, a)
    codes, step = saved.values.tiles[0].codes.long(), 2.0 ** saved.values.tiles[0].exponent
    qg, eg = reference.fixed_point(g, 8)
    assert torch.equal(dgain, ((codes * qg).sum(0).double() * (step * 2.0**eg)).float())
    assert torch.equal(dbias, (qg.sum(0).double() * 2.0**eg).float())
    h = incoming * factor
    centred = h - h.mean(1, keepdim=True) - values * (h * values).mean(1, keepdim=True)
    torch.testing.assert_close(dx, (centred * saved.inverse_deviation).float())


def test_outliers_are_apart_where_those_of_activations_are(path):
    x, gain, bias, _ = tensors(m=64, n=96)
    x[:, 7] *= 60
    expected = F.layer_norm(x, x.shape[1:], gain, bias, EPS)
    plain = Arithmetic(weight_bits=16)
    split = Arithmetic(weight_bits=16, threshold=Threshold(5.0), outliers=OutlierFormat())
    errors = [(layer_norm(x, gain, bias, EPS, a)[0] - expected).norm() for a in (plain, split)]
    assert errors[1] < errors[0] / 3


def test_seeds_decide_and_nearest_draws_nothing(path):
    x, gain, bias, g = tensors()
    a = Arithmetic(forward_rounding="stochastic")
    (one, saved), (again, _), (other, _) = (layer_norm(x, gain, bias, EPS, a, seed) for seed in (1, 1, 50))
    assert torch.equal(one, again) and not torch.equal(one, other)
    drawn = [layer_norm_gradients(g, saved, a, seed) for seed in (1, 1, 2)]
    assert all(torch.equal(*pair) for pair in zip(drawn[0], drawn[1], strict=True))
    assert not torch.equal(drawn[0][0], drawn[2][0])
    assert torch.equal(*(layer_norm(x, gain, bias, EPS, Arithmetic(), seed)[0] for seed in (1, 2)))


def test_edges(path):
    gain = torch.ones(4)
    y, saved = layer_norm(torch.full((3, 4), 2.0), gain, None, EPS, Arithmetic())
    assert not y.any() and layer_norm_gradients(torch.ones(3, 4), saved, Arithmetic())[0].isfinite().all()
    assert layer_norm(torch.empty(0, 4), gain, gain, EPS, Arithmetic())[0].shape == (0, 4)
    for value in (math.nan, math.inf):
        with pytest.raises(NotFiniteError):
            layer_norm(torch.tensor([[1.0, value, 0.0, 0.0]]), gain, None, EPS, Arithmetic())
        with pytest.raises(NotFiniteError):
            layer_norm_gradients(torch.full((3, 4), value), saved, Arithmetic())
