"""Dynamic fixed point: integers with one power-of-two step a tensor, outliers apart, products of int8 tiles only."""

from qexp.kernels.fixed_point.mapping import FixedPoint, NotFiniteError, Rounding, from_fixed_point, to_fixed_point
from qexp.kernels.fixed_point.operand import Operand, OutlierFormat, Tile, map_operand
from qexp.kernels.fixed_point.outliers import Threshold
from qexp.kernels.fixed_point.tiling import check_split, split_tiles

__all__ = [
    "FixedPoint",
    "NotFiniteError",
    "Operand",
    "OutlierFormat",
    "Rounding",
    "Threshold",
    "Tile",
    "check_split",
    "from_fixed_point",
    "map_operand",
    "split_tiles",
    "to_fixed_point",
]
