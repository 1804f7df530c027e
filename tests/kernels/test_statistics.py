"""Laws of the outlier statistics (paper notes 4; section 6, law 18)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from qexp.kernels import reference
from qexp.kernels.statistics import TensorStatistics


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def result(*batches: Tensor, row_ndim: int = 2, mask: Tensor | None = None) -> dict[str, Any]:
    statistics = TensorStatistics(row_ndim)
    for batch in batches:
        statistics.update(batch, mask)
    return statistics.result()


def expected(rows: list[Tensor]) -> dict[str, float]:
    """Row by row in float64, then averaged over rows."""
    with_epsilon = [reference.row_statistics(r.flatten().tolist(), 1e-6) for r in rows]
    plain = [reference.row_statistics(r.flatten().tolist(), 0.0) for r in rows]
    outliers = sum(r["outliers"] for r in plain)
    return {
        "max_abs": max(r["max_abs"] for r in plain),
        "inf_norm": math.fsum(r["max_abs"] for r in plain) / len(rows),
        "kurtosis": math.fsum(r["kurtosis"] for r in with_epsilon) / len(rows),
        "kurtosis_plain": math.fsum(r["kurtosis"] for r in plain) / len(rows),
        "std": math.fsum(r["std"] for r in plain) / len(rows),
        "outlier_count": outliers,
        "outlier_fraction": outliers / sum(r.numel() for r in rows),
    }


def outlying(*shape: int, seed: int = 0) -> Tensor:
    """Gaussian with one dimension of massive values and an offset."""
    x = normal(*shape, seed=seed) * 0.3 + 0.1
    x[..., 0, 5] = 40.0
    return x


def test_equals_the_reference_over_batches() -> None:
    a, b = outlying(3, 6, 16), outlying(2, 6, 16, seed=1)
    found = result(a, b)
    want = expected([*a, *b])
    assert {k: found[k] for k in want} == pytest.approx(want, rel=1e-5)
    assert found["outlier_count"] == 5 and found["outlier_dims"] == [[5, 5]]


def test_rows_of_one_token() -> None:
    x = normal(3, 6, 16)
    x[1, 2, 7] = 30.0
    x[1, 3, 7] = -30.0
    found = result(x, row_ndim=1)
    want = expected(list(x.flatten(0, 1)))
    assert {k: found[k] for k in want} == pytest.approx(want, rel=1e-5)
    assert result(x.flatten(0, 1), row_ndim=1) == found


def test_masked_rows_have_their_own_lengths() -> None:
    x = outlying(3, 6, 16)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0], [1, 0, 1, 1, 0, 0]])
    x[1, 3:] = 1e6
    x[2, 4] = float("nan")
    found = result(x, mask=mask)
    want = expected([row[keep] for row, keep in zip(x, mask.bool(), strict=True)])
    assert {k: found[k] for k in want} == pytest.approx(want, rel=1e-5)


def test_masked_tokens_are_left_out_as_if_selected() -> None:
    x = normal(3, 6, 16)
    mask = normal(3, 6, seed=1) > 0
    masked, selected = result(x, row_ndim=1, mask=mask), result(x[mask], row_ndim=1)
    assert {k: v for k, v in masked.items() if k != "outlier_dims"} == pytest.approx(
        {k: v for k, v in selected.items() if k != "outlier_dims"}
    )


def test_a_mask_of_ones_changes_nothing_and_a_row_without_positions_is_left_out() -> None:
    x = outlying(3, 6, 16)
    assert result(x, mask=torch.ones(3, 6)) == result(x)
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[1] = False
    kept = result(x[[0, 2]])
    assert result(x, mask=mask) == kept
    statistics = TensorStatistics(2)
    statistics.update(x, mask=torch.zeros(3, 6))
    with pytest.raises(ValueError, match="no data"):
        statistics.result()
    statistics.update(x, mask=mask)
    assert statistics.result() == kept


def test_mask_is_repeated_over_heads() -> None:
    scores = normal(2, 3, 6, 6)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    found = result(scores, mask=mask)
    want = expected([scores[b, h, mask[b].bool()] for b in range(2) for h in range(3)])
    assert {k: found[k] for k in want} == pytest.approx(want, rel=1e-5)


def test_gaussian_kurtosis_is_3() -> None:
    found = result(normal(4, 200, 200))
    assert found["kurtosis"] == pytest.approx(3.0, abs=0.05)
    assert found["std"] == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("std, kurtosis", [(0.03, 1.34), (0.1, 2.97)])
def test_epsilon_makes_kurtosis_depend_on_scale(std: float, kurtosis: float) -> None:
    found = result(normal(4, 200, 200) * std)
    assert found["kurtosis"] == pytest.approx(kurtosis, abs=0.03)
    assert found["kurtosis_plain"] == pytest.approx(3.0, abs=0.05)


def test_one_hot_row() -> None:
    x = torch.zeros(1, 1, 1000)
    x[0, 0, 3] = 1.0
    found = result(x)
    # Bessel's correction, squared, takes 2 of the 998.
    assert found["kurtosis_plain"] == pytest.approx(998, abs=3)
    assert found["kurtosis"] == pytest.approx(498, abs=2)
    assert (found["outlier_count"], found["outlier_dims"]) == (1, [[3, 1]])


def test_infinity_norm_is_averaged_over_rows_not_maximised() -> None:
    x = torch.zeros(2, 3, 4)
    x[0, 1, 2], x[1, 0, 0] = -10.0, 2.0
    found = result(x)
    assert (found["inf_norm"], found["max_abs"]) == (6.0, 10.0)


def test_outlier_dims_are_the_8_with_most() -> None:
    x = normal(1, 4000, 20) * 0.01
    for dim in range(10):
        x[0, : dim + 1, dim] = 5.0
    dims = result(x)["outlier_dims"]
    assert dims == [[d, d + 1] for d in range(9, 1, -1)]


def test_per_dim_max_and_growing_last_axis() -> None:
    statistics = TensorStatistics(2)
    statistics.update(torch.tensor([[[1.0, -2.0]]]))
    assert statistics.per_dim_max.tolist() == [1.0, 2.0]
    statistics.update(torch.tensor([[[-3.0, 0.5, 0.25]]]))
    statistics.update(torch.tensor([[[0.0, 0.75]]]))
    assert statistics.per_dim_max.tolist() == [3.0, 2.0, 0.25]


def test_constant_rows_and_single_values_give_finite_figures() -> None:
    for x in (torch.full((2, 3, 4), 7.0), torch.ones(2, 1, 1)):
        found = result(x)
        assert all(math.isfinite(v) for v in found.values() if isinstance(v, float))
        assert (found["kurtosis"], found["kurtosis_plain"], found["outlier_count"]) == (0.0, 0.0, 0)


def test_input_is_left_alone_and_half_precision_is_taken() -> None:
    x = outlying(2, 3, 8)
    before = x.clone()
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    result(x, mask=mask)
    assert torch.equal(x, before)
    assert result(x.bfloat16())["inf_norm"] == pytest.approx(40.0)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="no data"):
        TensorStatistics(2).result()
    with pytest.raises(ValueError, match="row_ndim"):
        TensorStatistics(0)
    with pytest.raises(ValueError, match="2 dimensions"):
        TensorStatistics(2).update(torch.ones(3))
    with pytest.raises(ValueError, match="mask"):
        TensorStatistics(2).update(torch.ones(2, 3, 4), mask=torch.tensor([[1, 0], [1, 0]]))
