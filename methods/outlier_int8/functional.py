"""From settings to arithmetic: which bits, which threshold, and how outliers are represented."""

from __future__ import annotations

from qexp.kernels.fixed_point.linear import Arithmetic
from qexp.kernels.fixed_point.operand import OutlierFormat
from qexp.kernels.fixed_point.outliers import Threshold
from qexp.methods.outlier_int8.settings import ONE_TENSOR, Settings

OUTLIER_BITS = 12
"""Of outliers that are not INT8 (arXiv 2312.09211)."""


def arithmetic(settings: Settings) -> Arithmetic:
    """The arithmetic of a mode other than ``float``."""
    apart = settings.mode not in ONE_TENSOR
    return Arithmetic(
        activation_bits=settings.activation_bits,
        weight_bits=settings.weight_bits,
        gradient_bits=settings.gradient_bits,
        forward_rounding=settings.forward_rounding,
        gradient_rounding=settings.gradient_rounding,
        threshold=threshold(settings) if apart else None,
        outliers=outlier_format(settings) if apart else None,
    )


def threshold(settings: Settings) -> Threshold:
    """What is an outlier, whatever the mode."""
    return Threshold(settings.gamma, settings.threshold == "std", settings.granularity == "column")


def outlier_format(settings: Settings) -> OutlierFormat:
    """How the outliers of a splitting mode are represented; without a split, as the paper's method does."""
    if settings.mode == "int8_outliers":
        return OutlierFormat(bits=8)
    return OutlierFormat(OUTLIER_BITS, wide=settings.mode == "int12_outliers", shift=settings.tile_shift)
