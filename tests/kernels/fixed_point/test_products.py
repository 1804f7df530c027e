"""Products of tiles: one exact sum whatever the forms of its parts, rounded once."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qexp.kernels import reference
from qexp.kernels.fixed_point import products
from qexp.kernels.fixed_point.linear import Arithmetic, bias_gradient, input_gradient, linear, weight_gradient
from qexp.kernels.fixed_point.operand import Operand, OutlierFormat, Tile, map_operand
from qexp.kernels.fixed_point.outliers import Threshold
from qexp.kernels.fixed_point.products import Pair, column_sums, integer_product, multiply
from qexp.kernels.fixed_point.tiling import safe_shifts, split_tiles
from qexp.kernels.int8 import pack_weight

SPLITS = [(bits, shift) for bits in range(9, 16) for shift in safe_shifts(bits)] + [(16, 8)]


def codes(*shape, seed=0, bits=8):
    top = 2 ** (bits - 1) - 1
    drawn = torch.randint(-top, top + 1, shape, generator=torch.Generator().manual_seed(seed))
    return drawn.to(torch.int8 if bits <= 8 else torch.int16)


@pytest.mark.parametrize(("bits", "shift"), SPLITS)
@pytest.mark.parametrize("k", [1, 77, 3072])
def test_tiles_give_the_product_of_wide_integers(bits, shift, k, path):
    """Forward and, with the transposed tiles, backward; random codes and the ends of their range."""
    top = 2 ** (bits - 1) - 1
    v, w, g = codes(5, k, bits=bits), codes(3, k, seed=1), codes(5, 3, seed=2)
    v[0], v[1], w[0] = top, -top, 127
    high, low = split_tiles(v, bits, shift)
    tiled = Operand((Tile(high, shift), Tile(low, 0)), (5, k))
    weight, gradient = Operand((Tile(w, 0),), (3, k)), Operand((Tile(g, 0),), (5, 3))
    assert torch.equal(linear(tiled, weight, None), reference.fixed_point_product(v, w, 0))
    assert torch.equal(weight_gradient(gradient, tiled), reference.fixed_point_product(g.t(), v.t(), 0))


@pytest.mark.parametrize("threshold", [Threshold(3.0), Threshold(3.0, by_column=True)], ids=["elements", "columns"])
def test_int8_tiles_are_int12_bit_for_bit(threshold, path):
    x = torch.randn(9, 33, generator=torch.Generator().manual_seed(0)) * 2
    x[:, 5] *= 30
    forms = [OutlierFormat(12, shift=shift) for shift in safe_shifts(12)] + [OutlierFormat(12, wide=True)]
    mapped = [map_operand(x, 8, "nearest", 0, threshold, form) for form in forms]
    weight, gradient = map_operand(torch.randn(7, 33), 8), map_operand(torch.randn(9, 7), 8)
    ys = [linear(operand, weight, torch.arange(7.0)) for operand in mapped]
    dws = [weight_gradient(gradient, operand) for operand in mapped]
    assert all(torch.equal(one, ys[0]) for one in ys) and all(torch.equal(one, dws[0]) for one in dws)


def test_gradients_are_the_integer_formulas(path):
    x, w, g = (torch.randn(*shape, generator=torch.Generator().manual_seed(0)) for shape in ((6, 11), (5, 11), (6, 5)))
    a = Arithmetic(gradient_rounding="nearest")
    (qx, ex), (qw, ew), (qg, eg) = (reference.fixed_point(t, 8) for t in (x, w, g))
    mapped_x, mapped_w, mapped_g = a.activations(x), a.weights(w), a.gradients(g)
    bias = [0.5, -1.0, 3.0, 1e-3, 0.0]
    expected = reference.fixed_point_product(qx, qw, ex + ew, bias)
    assert torch.equal(linear(mapped_x, mapped_w, torch.tensor(bias)), expected)
    assert torch.equal(input_gradient(mapped_g, mapped_w), reference.fixed_point_product(qg, qw.t(), eg + ew))
    assert torch.equal(weight_gradient(mapped_g, mapped_x), reference.fixed_point_product(qg.t(), qx.t(), eg + ex))
    ones = torch.ones(1, 6, dtype=torch.int64)
    assert torch.equal(bias_gradient(mapped_g), reference.fixed_point_product(ones, qg.t(), eg)[0])


@given(
    st.integers(1, 9),
    st.integers(1, 40),
    st.integers(0, 70),
    st.lists(st.integers(-40, 40), min_size=1, max_size=4),
    st.booleans(),
)
def test_any_sum_of_products(m, n, k, exponents, transposed):
    """As far apart as 2^80: beyond int32 and, with these few bits in each, still exact in float64 or far below it."""
    pairs, exact = [], torch.zeros(m, n, dtype=torch.float64)
    for i, exponent in enumerate(exponents):
        a, b = codes(m, k, seed=i), codes(n, k, seed=i + 9)
        pairs.append(Pair(a.t().contiguous().t() if transposed else a, b, exponent))
    # Largest first, which is the order in which the parts are added.
    for pair in sorted(pairs, key=lambda pair: -pair.exponent):
        exact += (pair.a.double() @ pair.b.double().t()) * 2.0**pair.exponent
    found = multiply(pairs)
    torch.testing.assert_close(found, exact.float(), rtol=2**-23, atol=0.0)
    if max(exponents) - min(exponents) < 24:
        assert torch.equal(found, exact.float())


def test_packed_weights_change_nothing(path):
    x = torch.randn(9, 40, generator=torch.Generator().manual_seed(0)) * 3
    a = Arithmetic(threshold=Threshold(5.0, by_column=True), outliers=OutlierFormat())
    for bits in (8, 12, 16):
        weight = map_operand(torch.randn(21, 40, generator=torch.Generator().manual_seed(1)), bits)
        packed = [pack_weight(t.codes) if t.codes.dtype == torch.int8 else t.codes for t in weight.tiles]
        assert torch.equal(linear(a.activations(x), weight, None, packed), linear(a.activations(x), weight, None))


@pytest.mark.parametrize("longest", [1, 7, 44, 45])
def test_long_sums_are_taken_in_pieces(longest, monkeypatch, path):
    a, b = codes(4, 45), codes(3, 45, seed=1)
    monkeypatch.setattr(products, "LARGEST_INT32", 128 * 128 * longest)
    sums = integer_product(a, b)
    assert sums.dtype == (torch.int32 if longest == 45 else torch.float64)
    assert torch.equal(sums.double(), a.double() @ b.double().t())
    assert torch.equal(multiply([Pair(a, b, -3)]), reference.fixed_point_product(a, b, -3))


def test_a_depth_that_really_is_beyond_int32():
    k = 140_000
    a, b = torch.full((2, k), -128, dtype=torch.int8), torch.full((3, k), -128, dtype=torch.int8)
    assert multiply([Pair(a, b, 0)]).tolist() == [[float(128 * 128 * k)] * 3] * 2
    assert 128 * 128 * k > 2**31


def test_results_below_the_normal_floats_are_rounded_once(path):
    a, b = codes(5, 3), codes(4, 3, seed=1)
    for exponent in (-150, -149, -140, -127, -126):
        exact = (a.double() @ b.double().t()) * 2.0**exponent
        assert torch.equal(multiply([Pair(a, b, exponent)]), exact.float())


@pytest.mark.parametrize("bits", [8, 16])
def test_column_sums_are_exact(bits, path):
    for shape in ((7, 5), (1, 1), (3, 1000), (0, 4), (4, 0)):
        q = codes(*shape, bits=bits)
        assert torch.equal(column_sums(q), q.long().sum(0)) and torch.equal(column_sums(q.t()), q.long().sum(1))
    most = torch.full((70_000, 2), -128 if bits == 8 else -32768, dtype=q.dtype)
    assert column_sums(most).tolist() == [70_000 * int(most[0, 0])] * 2
    low = torch.tensor([[255, 0], [128, 3]], dtype=torch.uint8)
    assert column_sums(low).tolist() == [383, 3]


def test_nothing_times_anything(path):
    a = Arithmetic(threshold=Threshold(5.0), outliers=OutlierFormat())
    for m, k, n in itertools.product((0, 2), repeat=3):
        x, w, g = (a.activations(torch.ones(*s)) for s in ((m, k), (n, k), (m, n)))
        assert torch.equal(linear(x, w, None), torch.full((m, n), float(k)))
        assert torch.equal(weight_gradient(g, x), torch.full((n, k), float(m)))
        assert torch.equal(input_gradient(g, w), torch.full((m, k), float(n)))
