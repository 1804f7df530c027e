"""Which values are outliers, and that taking them apart loses and adds nothing."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qexp.kernels import native
from qexp.kernels.fixed_point.operand import OutlierFormat, map_operand
from qexp.kernels.fixed_point.outliers import Threshold, find_outliers

BY_COLUMN = pytest.mark.parametrize("by_column", [False, True], ids=["elements", "columns"])


def outlying(m=13, k=21, seed=0):
    x = torch.randn(m, k, generator=torch.Generator().manual_seed(seed))
    x[:, 4] *= 20
    x[::3, 9] *= 9
    x[-1, -1] = -7.5
    return x


def separate(x, limit, by_column):
    """Inliers and outliers from the words of the definition, as two matrices."""
    apart = x.abs() > limit
    apart = apart.any(0).expand_as(x) if by_column else apart
    return x.masked_fill(apart, 0.0), x.masked_fill(~apart, 0.0)


@BY_COLUMN
@given(values=st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=24), gamma=st.sampled_from([0.0, 1.0, 5.0]))
def test_inliers_and_outliers_make_the_whole_and_never_meet(values, gamma, by_column):
    x = torch.tensor(values).reshape(-1, 3 if len(values) % 3 == 0 else 1)
    inliers, outliers = separate(x, gamma, by_column)
    assert torch.equal(inliers + outliers, x) and not (inliers * outliers).any()
    found = find_outliers(x, Threshold(gamma, by_column=by_column))
    assert found.columns.tolist() == [k for k, v in enumerate((x.abs() > gamma).any(0).tolist()) if v]
    assert (found.largest, found.largest_inlier) == (float(x.abs().max()), float(inliers.abs().max()))


@BY_COLUMN
@pytest.mark.parametrize("gamma", [0.0, 2.0, 3.0, 30.0, 1e9, math.inf])
def test_an_operand_is_its_two_parts_mapped_one_by_one(gamma, by_column, path):
    x = outlying()
    split = map_operand(x, 8, threshold=Threshold(gamma, by_column=by_column), outlier_format=OutlierFormat(12))
    inliers, outliers = separate(x, gamma, by_column)
    expected = map_operand(inliers, 8).to_float() + map_operand(outliers, 12).to_float()
    assert torch.equal(split.to_float(), expected)
    assert (split.outlier_columns is None) == (not outliers.any())
    assert torch.equal(split.tiles[0].codes, map_operand(inliers, 8).tiles[0].codes)


@BY_COLUMN
def test_random_rounding_draws_inliers_and_outliers_from_seeds_of_their_own(by_column, path):
    x, form = outlying(), OutlierFormat(12)
    threshold = Threshold(3.0, by_column=by_column)
    drawn = [map_operand(x, 8, "stochastic", seed, threshold, form).to_float() for seed in (5, 5, 6)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    mean = torch.stack(
        [map_operand(x, 8, "stochastic", seed, threshold, form).to_float() for seed in range(0, 1000, 2)]
    ).mean(0)
    steps = [math.ldexp(1.0, tile.exponent) for tile in map_operand(x, 8, "nearest", 0, threshold, form).tiles]
    assert (mean - x).abs().max() < 5 * 0.5 * max(steps[0], steps[-1]) / math.sqrt(500)


def test_a_relative_threshold_is_in_standard_deviations(path):
    x = outlying()
    limit = 2.0 * float(x.std(correction=0))
    assert Threshold(2.0, relative=True).limit(x) == limit
    absolute, relative = (find_outliers(x, t) for t in (Threshold(limit), Threshold(2.0, relative=True)))
    assert torch.equal(absolute.columns, relative.columns) and absolute.largest_inlier == relative.largest_inlier
    assert not len(find_outliers(x, Threshold(math.inf, relative=True)).columns)
    assert Threshold(2.0, relative=True).limit(x[:0]) == 0.0


@BY_COLUMN
def test_native_and_torch_find_the_same(by_column, monkeypatch):
    if native.unavailable() is not None:
        pytest.skip(f"no native kernels: {native.unavailable()}")
    matrices = [outlying(), outlying().t(), outlying(1, 10), torch.zeros(3, 4), torch.empty(0, 5), torch.empty(4, 0)]
    matrices += [torch.full((2, 3), 9.0), torch.tensor([[1e-45, -1e-40, 5.0]]), outlying(2000, 17)]
    threshold = Threshold(5.0, by_column=by_column)
    found = [find_outliers(x, threshold) for x in matrices]
    monkeypatch.setattr(native, "is_loaded", lambda: False)
    for x, one in zip(matrices, found, strict=True):
        other = find_outliers(x, threshold)
        assert torch.equal(one.columns, other.columns) and one.columns.dtype == other.columns.dtype
        assert (one.largest, one.largest_inlier) == (other.largest, other.largest_inlier)


@BY_COLUMN
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_shows(value, by_column, path):
    x = outlying()
    x[3, 2] = value
    largest = find_outliers(x, Threshold(5.0, by_column=by_column)).largest
    assert math.isnan(largest) if math.isnan(value) else largest == math.inf
