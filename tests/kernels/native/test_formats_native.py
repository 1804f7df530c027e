"""Rounding to a number format in one pass against torch's operators, bit for bit."""

from __future__ import annotations

import pytest
import torch

from qexp.kernels import native
from qexp.kernels.formats import BF16, E4M3FN, E4M3FNUZ, E5M2, E5M2FNUZ, FP16, Format, cast

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason=f"no native kernels: {native.unavailable()}")
WIDE = Format("e6m20", 6, 20, "ieee")
FORMATS = (E4M3FNUZ, E5M2FNUZ, E4M3FN, E5M2, Format("e2m1", 2, 1, "fnuz"), WIDE, FP16, BF16)


@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.name)
def test_every_kind_of_float32_gives_the_bits_of_torch_s_operators(
    format: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = torch.randint(-(2**31), 2**31 - 1, (300_001,), generator=torch.Generator().manual_seed(0))
    any_bits = codes.to(torch.int32).view(torch.float32)
    near_ties = torch.arange(-70_000, 70_001).float() * 2.0**-12
    x = torch.cat([any_bits, near_ties, torch.tensor([0.0, -0.0, float("inf"), -float("inf"), float("nan")])])
    found = cast(x, format)
    monkeypatch.setattr(native, "is_loaded", lambda: False)
    expected = cast(x, format)
    same = found.view(torch.int32) == expected.view(torch.int32)
    assert (same | (found.isnan() & expected.isnan())).all()


def test_shape_layout_and_dtype_are_the_input_s() -> None:
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)).t()
    assert cast(x, E4M3FN).shape == (5, 6) and cast(x.half(), E4M3FN).dtype == torch.float16
    assert torch.equal(cast(x, E4M3FN), cast(x.contiguous(), E4M3FN))
