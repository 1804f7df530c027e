"""Settings of quantization-aware training with a kurtosis penalty."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from qexp.conf.schema import STRICT, BitsName, Fraction


@dataclass(frozen=True, config=STRICT)
class Settings:
    """Which tensors the penalty acts on and what it is, beside the settings of ``qat``."""

    bits: BitsName | None = None
    """Of weights and activations in training (``w4a8``); null: the first of ``quant.bits``."""
    ranges: Literal["running", "fixed"] = "running"
    """Of activations, as in ``qat``."""
    freeze_after: Fraction = 1.0
    """Share of the training steps after which running ranges stay."""
    select: Literal["all", "list", "three_sigma", "repeated_three_sigma", "threshold"] = "three_sigma"
    """Which weight matrices and embeddings, by their kurtosis before training; rules: ``models.weight_kurtosis``."""
    names: tuple[str, ...] = ()
    """``list``: site names or patterns such as ``*.query_weight``."""
    threshold: Annotated[float, Field(ge=1.0)] | None = None
    """``threshold``: the largest kurtosis that is selected."""
    target: Annotated[float, Field(gt=1.0)] = 1.8
    """Kurtosis (not its excess) that weights are drawn to: 1.8 is uniform, 3 normal."""
    weight: Annotated[float, Field(ge=0.0)] = 1.0
    """lambda, the factor on the penalty."""
    mode: Literal["avg", "sum", "max"] = "avg"
    """Over the selected tensors' (kurtosis - target)^2."""
    qat: bool = True
    """False: training is in floating point, and quantization follows it (KURE's other use)."""

    quantizes_training = True  # no annotation: it is no setting
