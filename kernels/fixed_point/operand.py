"""One factor of an integer product: a matrix as a sum of integer tiles, each with its own power-of-two step."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qexp.kernels.fixed_point.mapping import Rounding, magnitude, map_codes, step_exponent
from qexp.kernels.fixed_point.outliers import Threshold, find_outliers
from qexp.kernels.fixed_point.tiling import DEFAULT_SHIFT, TILE_BITS, check_split, split_tiles


@dataclass(frozen=True)
class OutlierFormat:
    """How outliers are represented: in ``bits`` bits, from 9 bits on as two int8 tiles, or ``wide`` as one int16.

    ``ValueError`` for a split whose tiles could leave int8.
    """

    bits: int = 12
    wide: bool = False
    shift: int = DEFAULT_SHIFT

    def __post_init__(self) -> None:
        if self.bits > TILE_BITS and not self.wide:
            check_split(self.bits, self.shift)


@dataclass(frozen=True)
class Tile:
    """``codes * 2**exponent`` as one summand of a matrix: int8 or uint8 codes [M, K], or int16 (``wide``).

    ``columns``: the tile has only these columns of the whole, which is zero elsewhere.
    """

    codes: Tensor
    exponent: int
    columns: Tensor | None = None


@dataclass(frozen=True)
class Operand:
    """A float matrix [M, K] as the sum of its tiles; ``inlier_exponent`` is that of the first, dense one's step."""

    tiles: tuple[Tile, ...]
    shape: tuple[int, int]
    outlier_columns: Tensor | None = None

    def to_float(self) -> Tensor:
        """The matrix that the tiles stand for: float64, exact."""
        whole = torch.zeros(self.shape, dtype=torch.float64, device=self.tiles[0].codes.device)
        for tile in self.tiles:
            values = tile.codes.double() * math.ldexp(1.0, tile.exponent)
            if tile.columns is None:
                whole += values
            else:
                whole.index_add_(1, tile.columns, values)
        return whole


def map_operand(
    x: Tensor,
    bits: int,
    rounding: Rounding = "nearest",
    seed: int = 0,
    threshold: Threshold | None = None,
    outlier_format: OutlierFormat | None = None,
) -> Operand:
    """float32 x [M, K] in ``bits`` bits; with ``threshold``, its outliers apart in ``outlier_format``.

    Without outliers in x this is the same whether a threshold is given or not, bit for bit. The outliers are rounded
    with ``seed + 1``. ``NotFiniteError`` for NaN or infinity.
    """
    if threshold is None or outlier_format is None:
        exponent = step_exponent(magnitude(x), bits)
        return Operand(_tiles(map_codes(x, exponent, bits, rounding, seed), exponent, bits), (len(x), x.shape[1]))
    found = find_outliers(x, threshold)
    step_exponent(found.largest, bits)  # refuses what is not finite
    exponent = step_exponent(found.largest_inlier, bits)
    if threshold.by_column:
        codes = map_codes(x, exponent, bits, rounding, seed, zeroed=found.columns)
    else:
        codes = map_codes(x, exponent, bits, rounding, seed, found.limit)
    tiles = _tiles(codes, exponent, bits)
    if not len(found.columns):
        return Operand(tiles, (len(x), x.shape[1]))
    apart = x.index_select(1, found.columns)
    if not threshold.by_column:
        apart.masked_fill_(apart.abs() <= found.limit, 0.0)
    tiles += _outlier_tiles(apart, found.columns, outlier_format, rounding, seed + 1)
    return Operand(tiles, (len(x), x.shape[1]), found.columns)


def _outlier_tiles(x: Tensor, columns: Tensor, form: OutlierFormat, rounding: Rounding, seed: int) -> tuple[Tile, ...]:
    exponent = step_exponent(magnitude(x), form.bits)
    codes = map_codes(x, exponent, form.bits, rounding, seed)
    tiles = (Tile(codes, exponent),) if form.wide else _tiles(codes, exponent, form.bits, form.shift)
    return tuple(replace(tile, columns=columns) for tile in tiles)


def _tiles(codes: Tensor, exponent: int, bits: int, shift: int = DEFAULT_SHIFT) -> tuple[Tile, ...]:
    """One int8 tile up to 8 bits, two beyond."""
    if bits <= TILE_BITS:
        return (Tile(codes, exponent),)
    high, low = split_tiles(codes, bits, shift)
    return Tile(high, exponent + shift), Tile(low, exponent)
