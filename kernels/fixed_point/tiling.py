"""Operator tiling: integers of up to 16 bits as two 8-bit tiles, ``v = 2**shift * high + low``.

A product of wide integers is then a sum of shifted products of bytes, bit for bit the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qexp.kernels.fixed_point.mapping import largest_code

DEFAULT_SHIFT = 8
TILE_BITS = 8


def high_range(bits: int, shift: int) -> tuple[int, int]:
    """What the high tile of ``bits``-bit codes can be with balanced low digits -2^(shift-1) .. 2^(shift-1) - 1."""
    top, half = largest_code(bits), 2 ** (shift - 1)
    return (-top + half) // 2**shift, (top + half) // 2**shift


def safe_shifts(bits: int) -> tuple[int, ...]:
    """Shifts at which both tiles fit int8: 7 and 8 for 12 bits, 8 for 15, none for 16."""
    return tuple(s for s in range(1, TILE_BITS + 1) if high_range(bits, s)[1] <= 127)


def check_split(bits: int, shift: int) -> None:
    """``ValueError`` if a tile of ``bits``-bit codes, split at ``shift``, can leave int8; it names the safe ones.

    16 bits have no safe balanced split; :func:`split_tiles` gives them an unsigned low byte, at shift 8 only.
    """
    safe = safe_shifts(bits) or (TILE_BITS,)
    if shift not in safe:
        top = high_range(bits, shift)[1] if 1 <= shift <= TILE_BITS else None
        why = "a tile is 8 bits wide" if top is None else f"the high tile reaches {top}, int8 ends at 127"
        named = " or ".join(map(str, safe))
        raise ValueError(f"{bits}-bit codes cannot be split at {shift} into int8 tiles ({why}); safe: {named}")


def split_tiles(codes: Tensor, bits: int, shift: int = DEFAULT_SHIFT) -> tuple[Tensor, Tensor]:
    """(high, low) of int16 codes in ``bits`` bits, any shape: ``2**shift * high + low`` is each code again.

    low = ((v + 2^(shift-1)) mod 2^shift) - 2^(shift-1), int8; for 16 bits it is the unsigned low byte, uint8. high is
    int8. ``ValueError`` for an unsafe split.
    """
    check_split(bits, shift)
    if not safe_shifts(bits):
        return (codes >> TILE_BITS).to(torch.int8), (codes & 255).to(torch.uint8)
    half = 2 ** (shift - 1)
    high = (codes + half) >> shift
    return high.to(torch.int8), (codes - (high << shift)).to(torch.int8)
