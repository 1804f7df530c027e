"""Settings of learned step sizes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from qexp.conf.schema import STRICT, BitsName


@dataclass(frozen=True, config=STRICT)
class Settings:
    """Which parts of a grid are learnt. Where quantizers stand is ``quant``'s."""

    bits: BitsName | None = None
    """Of weights and activations in training (``w4a8``); null: the first of ``quant.bits``."""
    learn_offset: bool = True
    """LSQ+: of asymmetric grids, learn the offset too. False is LSQ: the zero point stays as calibrated."""
    lr_factor: Annotated[float, Field(gt=0.0)] = 0.1
    """Learning rate of steps and offsets, as a factor on the network's."""

    quantizes_training = True  # no annotation: it is no setting
