"""Settings of quantization-aware training."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from qexp.conf.schema import STRICT, BitsName, Fraction


@dataclass(frozen=True, config=STRICT)
class Settings:
    """How the ranges of quantizers come about while the network is trained. Where they stand is ``quant``'s."""

    bits: BitsName | None = None
    """Of weights and activations in training (``w4a8``); null: the first of ``quant.bits``."""
    ranges: Literal["running", "fixed"] = "running"
    """Of activations: following the batches with ``quant.activations.momentum``, or as calibrated. A weight's range is
    its own smallest and largest value at every step."""
    freeze_after: Fraction = 1.0
    """Share of the training steps after which running ranges stay."""

    quantizes_training = True  # no annotation: it is no setting
