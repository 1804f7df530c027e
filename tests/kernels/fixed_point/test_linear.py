"""The linear layer: exact integers forward and backward, tiles equal to wide integers, and what the split gains."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from qexp.kernels.fixed_point import products
from qexp.kernels.fixed_point.linear import Arithmetic, bias_gradient, input_gradient, linear, weight_gradient
from qexp.kernels.fixed_point.mapping import NotFiniteError
from qexp.kernels.fixed_point.operand import OutlierFormat, map_operand
from qexp.kernels.fixed_point.outliers import Threshold, find_outliers

SPLIT = Arithmetic(threshold=Threshold(3.0), outliers=OutlierFormat(12))
FORMS = {
    "int8": Arithmetic(),
    "int10": Arithmetic(activation_bits=10),
    "int16": Arithmetic(16, 16, 16),
    "tiled": SPLIT,
    "shift 7": replace(SPLIT, outliers=OutlierFormat(12, shift=7)),
    "wide": replace(SPLIT, outliers=OutlierFormat(12, wide=True)),
    "int8 outliers": replace(SPLIT, outliers=OutlierFormat(8)),
    "columns": replace(SPLIT, threshold=Threshold(3.0, by_column=True)),
    "std": replace(SPLIT, threshold=Threshold(2.0, relative=True)),
    "random": replace(SPLIT, forward_rounding="stochastic"),
    "int4": Arithmetic(4, 4, 4),
}


def tensors(m=23, k=45, n=19, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(m, k, generator=generator)
    x[:, 3] *= 30
    x[::5, 17] *= 8
    w, g = torch.randn(n, k, generator=generator) * 0.1, torch.randn(m, n, generator=generator) * 1e-4
    return x, w, g, torch.randn(n, generator=generator)


def integers(operand):
    """A matrix as Python would have it: float64 holds the exact sum of its tiles."""
    return operand.to_float()


@pytest.mark.parametrize("form", FORMS)
def test_products_are_exact_and_rounded_once(form, path):
    x, w, g, b = tensors()
    a = FORMS[form]
    qx, qw, qg = a.activations(x, 1), a.weights(w, 2), a.gradients(g, 3)
    exact_x, exact_w, exact_g = integers(qx), integers(qw), integers(qg)
    assert torch.equal(linear(qx, qw, None), (exact_x @ exact_w.t()).float())
    assert torch.equal(linear(qx, qw, b), (exact_x @ exact_w.t()).float() + b)
    assert torch.equal(input_gradient(qg, qw), (exact_g @ exact_w).float())
    assert torch.equal(weight_gradient(qg, qx), (exact_g.t() @ exact_x).float())
    assert torch.equal(bias_gradient(qg), exact_g.sum(0).float())


@pytest.mark.parametrize("k", [1, 100, 3072])
def test_tiles_are_wide_integers_at_the_ends_of_their_range(k, path):
    codes = torch.tensor([2047, -2047, 1920, -1921, 127, 128, -128, -129, 0, 1]).repeat(k)[:k].float()
    x, w = codes.expand(4, k) * torch.tensor([[1.0], [-1.0], [1.0], [1.0]]), torch.full((5, k), 127.0)
    w[1], w[2] = -127.0, torch.arange(k) % 255 - 127.0
    tiled = map_operand(x, 12)
    assert torch.equal(linear(tiled, Arithmetic().weights(w), None), (x.double() @ w.double().t()).float())
    gradient = Arithmetic(gradient_rounding="nearest").gradients(w[:4, :3].contiguous())
    assert torch.equal(weight_gradient(gradient, tiled), (integers(gradient).t() @ x.double()).float())


def test_the_parts_are_the_whole_exactly():
    x, *_ = tensors()
    for by_column in (False, True):
        found = find_outliers(x, Threshold(3.0, by_column=by_column))
        outliers = torch.zeros_like(x)
        chosen = x[:, found.columns]
        outliers[:, found.columns] = chosen if by_column else torch.where(chosen.abs() > 3.0, chosen, 0.0)
        inliers = x - outliers
        assert torch.equal(inliers + outliers, x) and not (inliers * outliers).any()
        assert inliers.abs().max() == found.largest_inlier and x.abs().max() == found.largest


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("by_column", [False, True])
def test_without_outliers_it_is_one_tensor_and_with_nothing_else_it_is_twelve_bits(wide, by_column):
    x, w, *_ = tensors()
    form, weights = OutlierFormat(12, wide=wide), Arithmetic().weights(w)
    nothing = map_operand(x, 8, threshold=Threshold(math.inf, by_column=by_column), outlier_format=form)
    assert torch.equal(linear(nothing, weights, None), linear(map_operand(x, 8), weights, None))
    everything = map_operand(x, 8, threshold=Threshold(0.0, by_column=by_column), outlier_format=form)
    assert torch.equal(linear(everything, weights, None), linear(map_operand(x, 12), weights, None))


def test_sixteen_bits_are_the_floats_gradients():
    x, w, g, b = tensors()
    leaves = [t.clone().requires_grad_() for t in (x, w, b)]
    F.linear(*leaves).backward(g)
    a = FORMS["int16"]
    qx, qw, qg = a.activations(x), a.weights(w), a.gradients(g, 7)
    for found, leaf in zip((input_gradient(qg, qw), weight_gradient(qg, qx), bias_gradient(qg)), leaves, strict=True):
        assert (found - leaf.grad).norm() < 1e-3 * leaf.grad.norm()


def test_random_gradients_have_the_mapped_products_as_their_mean():
    x, w, g, _ = tensors()
    a = Arithmetic()
    qx = a.activations(x)
    draws = torch.stack([weight_gradient(a.gradients(g, seed), qx) for seed in range(400)]).double()
    expected = g.double().t() @ integers(qx)
    error = (draws.mean(0) - expected).abs() / (draws.std(0) / math.sqrt(400))
    assert error.max() < 5 and error.mean() < 1.2  # mean of a half-normal: 0.8


def sqnr(a, x, w):
    exact = x.double() @ w.double().t()
    found = linear(a.activations(x), a.weights(w), None).double()
    return float(10 * torch.log10(exact.square().sum() / (found - exact).square().sum()))


def test_the_split_gives_twelve_bits_quality_with_eight_bit_factors():
    generator = torch.Generator().manual_seed(1)
    x, w = torch.randn(256, 384, generator=generator), torch.randn(200, 384, generator=generator) * 0.02
    x[:, torch.randperm(384, generator=generator)[:3]] *= 20
    split = Arithmetic(threshold=Threshold(5.0), outliers=OutlierFormat(12))
    one, ten, twelve = (sqnr(Arithmetic(activation_bits=bits), x, w) for bits in (8, 10, 12))
    assert one + 10 < ten < twelve < sqnr(Arithmetic(activation_bits=16), x, w)
    assert sqnr(replace(split, outliers=OutlierFormat(8)), x, w) > one + 12
    assert sqnr(split, x, w) > twelve - 1.5  # its inliers' step is twice as large here, weights set the rest


@pytest.mark.parametrize("seed", range(10))
def test_the_inlier_step_is_at_most_half_beyond_twice_the_threshold(seed):
    x, *_ = tensors(seed=seed)
    x[0, 0] = 6.001 + seed
    whole, split = map_operand(x, 8), SPLIT.activations(x)
    assert split.tiles[0].exponent <= whole.tiles[0].exponent - 1


def test_sums_beyond_int32_are_taken_in_pieces(monkeypatch):
    monkeypatch.setattr(products, "LARGEST_INT32", 127 * 127 * 10)
    x, w, _, b = tensors(k=45)
    a = FORMS["tiled"]
    qx, qw = a.activations(x), a.weights(w)
    assert torch.equal(linear(qx, qw, b), (integers(qx) @ integers(qw).t()).float() + b)


@pytest.mark.parametrize("form", ["tiled", "columns", "int8"])
def test_degenerate_matrices(form, path):
    a, w = FORMS[form], torch.ones(2, 3)
    zeros = a.activations(torch.zeros(4, 3))
    assert torch.equal(linear(zeros, a.weights(w), None), torch.zeros(4, 2))
    beyond = torch.full((4, 3), 100.0)
    beyond[:, 0] = 1.0
    for x in (torch.full((4, 3), 100.0), beyond, torch.tensor([[7.0, 0.0, 0.0]])):
        mapped = a.activations(x)
        torch.testing.assert_close(linear(mapped, a.weights(w), None), x @ w.t(), rtol=0.02, atol=0.0)
    assert linear(a.activations(torch.empty(0, 3)), a.weights(w), None).shape == (0, 2)
    one = map_operand(torch.tensor([[2.0]]), 8)
    assert linear(one, one, torch.tensor([1.0])).item() == 5.0


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("form", ["tiled", "columns", "std", "int8"])
def test_what_is_not_finite_is_refused(value, form, path):
    x, *_ = tensors()
    x[2, 5] = value
    with pytest.raises(NotFiniteError):
        FORMS[form].activations(x)


def test_thresholds_are_positive():
    for gamma in (-1.0, math.nan):
        with pytest.raises(ValueError, match="an outlier threshold is positive"):
            Threshold(gamma)
    with pytest.raises(ValueError, match="cannot be split at 4"):
        OutlierFormat(12, shift=4)
