"""The row statistics in one pass against torch's several, and against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from qexp.kernels import native, reference
from qexp.kernels.statistics import TensorStatistics

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason=f"no native kernels: {native.unavailable()}")

SHAPES = [(3, 6, 16), (1, 1, 1), (2, 1, 1000), (4, 50, 12), (2, 7, 3), (64, 1, 33), (2, 130, 385)]


def outlying(*shape: int, seed: int = 0) -> Tensor:
    """Gaussian with an offset, and a massive value in the first position of each row."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.3 + 0.1
    x[..., 0, shape[-1] // 2] = 40.0
    return x


def result(x: Tensor, mask: Tensor | None = None) -> tuple[dict[str, Any], Tensor]:
    statistics = TensorStatistics(2)
    statistics.update(x, mask)
    return statistics.result(), statistics.per_dim_max


def by_torch(monkeypatch: pytest.MonkeyPatch, x: Tensor, mask: Tensor | None = None) -> tuple[dict[str, Any], Tensor]:
    with monkeypatch.context() as patch:
        patch.setattr(native, "is_loaded", lambda: False)
        return result(x, mask)


def assert_same(found: tuple[dict[str, Any], Tensor], expected: tuple[dict[str, Any], Tensor]) -> None:
    assert torch.equal(found[1], expected[1])
    assert found[0].pop("outlier_dims") == expected[0].pop("outlier_dims")
    # Of float32 sums in torch; the native ones are double.
    assert found[0] == pytest.approx(expected[0], rel=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("masked", [False, True])
def test_equals_torch(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], masked: bool) -> None:
    x = outlying(*shape)
    mask = None
    if masked:
        mask = torch.rand(shape[:2], generator=torch.Generator().manual_seed(1)) > 0.3
        mask[0, 0] = True
        x[~mask] = float("nan")
    assert_same(result(x, mask), by_torch(monkeypatch, x, mask))


def test_a_mean_far_from_zero_keeps_the_moments() -> None:
    x = torch.randn(1, 40, 50, generator=torch.Generator().manual_seed(0)) + 1000.0
    expected = reference.row_statistics(x.flatten().tolist(), 1e-6)
    found, _ = result(x)
    # Sums of 2,000 numbers in double.
    assert found["kurtosis"] == pytest.approx(expected["kurtosis"], rel=1e-10)
    assert found["std"] == pytest.approx(expected["std"], rel=1e-10)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_shows_as_in_torch(monkeypatch: pytest.MonkeyPatch, bad: float) -> None:
    x = outlying(2, 5, 17)
    x[1, 2, 3] = bad
    found, expected = result(x), by_torch(monkeypatch, x)
    for name in ("max_abs", "inf_norm", "kurtosis", "std"):
        assert found[0][name] == pytest.approx(expected[0][name], nan_ok=True)
    assert torch.equal(found[1].nan_to_num(-1.0), expected[1].nan_to_num(-1.0))


def test_rows_without_positions_and_no_rows() -> None:
    sums, largest, outliers = torch.ops.qexp.row_statistics(
        torch.ones(2, 3, 4), torch.zeros(2, 3, dtype=torch.bool), 1e-6, 6.0
    )
    assert not sums.any() and not largest.any() and not outliers.any()
    assert not torch.ops.qexp.row_statistics(torch.empty(0, 3, 4), None, 1e-6, 6.0)[0].any()


def test_threads_change_nothing() -> None:
    x = outlying(9, 130, 385)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(torch.ops.qexp.row_statistics(x, None, 1e-6, 6.0))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))
