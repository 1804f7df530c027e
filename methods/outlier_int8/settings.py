"""Settings of integer fine-tuning with outliers in 8-bit integers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from qexp.conf.schema import STRICT

Mode = Literal["float", "int8", "int12_outliers", "tiled_int12", "int8_outliers"]
Rounding = Literal["nearest", "stochastic"]
Width = Annotated[int, Field(ge=4, le=16)]

LATER = {"layernorm": False, "embedding": False}
"""Settings that came after the first records: at these values they are no part of a cell's identity."""
ONE_TENSOR = ("float", "int8")
"""Modes in which nothing is done about outliers."""
SAFE_SHIFTS = (7, 8)
"""Where 12-bit codes can be split so that both tiles fit int8."""


@dataclass(frozen=True, config=STRICT)
class Settings:
    """Which arithmetic the linear layers have, and what an outlier is."""

    mode: Mode = "tiled_int12"
    """``int8``: each activation in one tensor, the paper's baseline. The others take its outliers apart: in 12 bits, as
    one wide product (``int12_outliers``, emulated) or as two int8 tiles (``tiled_int12``), or in 8 bits with a step of
    their own (``int8_outliers``)."""
    gamma: Annotated[float, Field(gt=0.0)] = 5.0
    """The threshold (the paper's)."""
    threshold: Literal["absolute", "std"] = "absolute"
    """``std``: gamma counts standard deviations of the tensor."""
    granularity: Literal["element", "column"] = "element"
    """``column``: a column with one outlier is one as a whole, as in LLM.int8()."""
    activation_bits: Width = 8
    """Of an activation, or of its inliers where outliers are apart: then 8 at most."""
    weight_bits: Width = 8
    gradient_bits: Width = 8
    """Of the gradient of a layer's output."""
    forward_rounding: Rounding = "nearest"
    """Of activations and weights while training; evaluation always rounds to nearest."""
    gradient_rounding: Rounding = "stochastic"
    tile_shift: int = 8
    """Where a 12-bit code is split into two tiles: 2 ** shift * high + low."""
    train: bool = True
    """False: fine-tune in floating point, and use the integers in evaluation only."""
    layernorm: bool = False
    """LayerNorms in fixed point too, as in the authors' earlier paper (2209.09815)."""
    embedding: bool = False
    """Embedding tables in fixed point too, as there."""
    exclude: tuple[str, ...] = ()
    """Layers whose dotted name contains one of these stay in floating point."""

    @property
    def acts_in_training(self) -> bool:
        return self.train and self.mode != "float"

    @property
    def in_integers(self) -> bool:
        return self.mode != "float"

    @model_validator(mode="after")
    def _fits(self) -> Settings:
        if self.mode not in ONE_TENSOR and self.activation_bits > 8:
            raise ValueError(
                f"activation_bits={self.activation_bits} with mode={self.mode}: inliers have 8 bits at most; "
                "a wider single tensor is mode=int8"
            )
        if self.tile_shift not in SAFE_SHIFTS:
            raise ValueError(
                f"tile_shift={self.tile_shift}: 12-bit codes split there do not fit two int8 tiles; use 7 or 8"
            )
        return self
