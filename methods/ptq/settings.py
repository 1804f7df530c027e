"""Settings of post-training quantization with chosen range estimators."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from qexp.conf.schema import STRICT, RangeEstimator


@dataclass(frozen=True, config=STRICT)
class Settings:
    """Where the ends of the ranges lie; all else of the quantizers is ``quant``'s."""

    activations: RangeEstimator = "running_minmax"
    """In place of ``quant.activations.range``; its momentum and percentile hold here too."""
    weights: Literal["minmax", "mse"] = "minmax"
    """In place of ``quant.weights.range``."""

    @property
    def acts_in_training(self) -> bool:
        return False
