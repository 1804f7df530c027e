"""Products of 8-bit floats: the codes are the casts, the products are those of the numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qexp.kernels.formats import E4M3FN, E5M2, Format, cast
from qexp.kernels.fp8 import FP8, codes, scaled_product, whole_tiles, why_simulated


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("format", [E4M3FN, E5M2], ids=lambda format: format.name)
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_codes_are_the_casts(format: Format, rounding: str) -> None:
    x = torch.cat([normal(4000) * 2.0**power for power in (-12, 0, 12)] + [torch.tensor([1e9, -1e9])])
    torch.manual_seed(0)
    found = codes(x, format, rounding).float()  # type: ignore[arg-type]
    torch.manual_seed(0)
    assert torch.equal(found, cast(x, format, rounding))  # type: ignore[arg-type]


def test_gradients_that_shall_show_overflow_become_infinite() -> None:
    formats = FP8["hardware"].overflowing
    x = torch.tensor([1.0, 1e9, -1e9])
    assert torch.equal(codes(x, formats.gradient, "nearest").float(), torch.tensor([1.0, torch.inf, -torch.inf]))
    assert torch.equal(codes(x, formats.operand, "nearest").float(), torch.tensor([1.0, 448.0, -448.0]))


@pytest.mark.parametrize("formats", [(E4M3FN, E4M3FN), (E5M2, E4M3FN)], ids=["e4 e4", "e5 e4"])
def test_a_product_is_that_of_the_numbers(formats: tuple[Format, Format]) -> None:
    a, b = codes(normal(32, 48), formats[0], "nearest"), codes(normal(48, 64, seed=1), formats[1], "nearest")
    expected = 0.375 * (a.double() @ b.double())
    # Sums of 48 products in float32, each smaller than 6 * 6.
    torch.testing.assert_close(scaled_product(a, b, 0.375).double(), expected, rtol=0, atol=48 * 36 * 2.0**-24)
    assert torch.equal(scaled_product(a, b.t().contiguous().t(), 0.375), scaled_product(a, b, 0.375))


@pytest.mark.parametrize("rows", [0, 1, 16, 17])
def test_rows_of_zeros_fill_the_last_tile(rows: int) -> None:
    x = normal(rows, 3)
    filled = whole_tiles(x)
    assert filled.shape == (-(-rows // 16) * 16, 3) and torch.equal(filled[:rows], x) and not filled[rows:].any()


def test_why_a_device_simulates(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    assert "cpu" in why_simulated(torch.device("cpu"), FP8["hardware"])
    assert "e4m3fnuz" in why_simulated(cuda, FP8["paper"])
    for capability, simulated in (((8, 0), True), ((8, 9), False), ((9, 0), False)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        assert bool(why_simulated(cuda, FP8["hardware"])) is simulated
