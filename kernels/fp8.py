"""8-bit floats in matrix products: which two formats, and products that really multiply them (``torch._scaled_mm``)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from qexp.kernels.formats import E4M3FN, E4M3FNUZ, E5M2, E5M2FNUZ, Format, Rounding, cast

TILE = 16
"""What ``torch._scaled_mm`` wants the inner and the outer dimension of its second factor to be a multiple of."""
CAPABILITY = (8, 9)
"""The first CUDA devices that multiply 8-bit floats (Ada, Hopper)."""


@dataclass(frozen=True)
class Fp8Formats:
    """E4 of what is multiplied forward, E5 of the gradient arriving at a product's output (arXiv 2303.11257)."""

    operand: Format
    gradient: Format

    @property
    def overflowing(self) -> Fp8Formats:
        """With gradients that do not saturate, so that whoever chooses a loss scale by overflows sees them."""
        return replace(self, gradient=replace(self.gradient, saturate=False))


FP8 = {"paper": Fp8Formats(E4M3FNUZ, E5M2FNUZ), "hardware": Fp8Formats(E4M3FN, E5M2)}
"""``paper``: up to 240 and 57344, on no NVIDIA device. ``hardware``: up to 448 and 57344, what an H100 multiplies."""

_DTYPES = {"e4m3fn": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


def why_simulated(device: torch.device, formats: Fp8Formats) -> str:
    """Why ``device`` does not multiply these formats; empty where it does."""
    if not {formats.operand.name, formats.gradient.name} <= _DTYPES.keys():
        return f"no device here multiplies {formats.operand.name}"
    if device.type != "cuda":
        return f"a {device.type} does not multiply 8-bit floats"
    found = torch.cuda.get_device_capability(device)
    return (
        "" if found >= CAPABILITY else f"CUDA capability {found[0]}.{found[1]} is below {CAPABILITY[0]}.{CAPABILITY[1]}"
    )


def codes(x: Tensor, format: Format, rounding: Rounding) -> Tensor:
    """x in ``format``'s own torch dtype: the codes of :func:`~qexp.kernels.formats.cast`."""
    dtype = _DTYPES[format.name]
    if rounding == "stochastic":
        return cast(x, format, rounding).to(dtype)
    return (x.clamp(-format.largest, format.largest) if format.saturate else x).to(dtype)


def whole_tiles(rows: Tensor) -> Tensor:
    """[M, K] with rows of zeros below it, so that M is a multiple of ``TILE``."""
    return F.pad(rows, (0, 0, 0, -len(rows) % TILE))


def scaled_product(left: Tensor, right: Tensor, factor: float = 1.0) -> Tensor:
    """factor * left @ right of 8-bit floats, accumulated and returned in float32: [M, K] x [K, N] -> [M, N].

    K and N are multiples of ``TILE``. The second factor is laid out column by column where it is not already.
    """
    by_column = right if right.stride(0) == 1 else right.t().contiguous().t()
    scales = left.new_tensor((factor, 1.0), dtype=torch.float32)
    return torch._scaled_mm(left.contiguous(), by_column, scale_a=scales[0], scale_b=scales[1], out_dtype=torch.float32)
