"""Settings of Quadapter."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from qexp.conf.schema import STRICT, BitsName, NonNegative


@dataclass(frozen=True, config=STRICT)
class Settings:
    """Which scales are learnt, and how the first phase finds them. The second is the training recipe's."""

    bits: BitsName | None = None
    """Of weights and activations (``w8a8``); null: the first of ``quant.bits``."""
    learn_scales: bool = True
    """False: alpha stays 1 and only the ranges are learnt, which isolates what the scales do."""
    roles: tuple[str, ...] | None = None
    """Where scales stand: ``attention_norm``, ``ffn_norm``, ``value``, ``up``, ``ffn_hidden``; null: the normalisations
    that fold, where none does (BERT) ``value``."""
    blockwise: bool = True
    """The first phase: fit the scales of each block to its output, block by block."""
    steps: Annotated[int, Field(ge=1)] = 200
    """Of Adam for each block in the first phase, each on one calibration batch."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-2
    """Of log(alpha) in the first phase."""
    input: Literal["float", "quantized"] = "quantized"
    """What a block reads in the first phase: the float network's stream, or that of the quantized blocks before it."""
    max_scale: Annotated[float, Field(gt=1.0)] = 1e3
    """alpha and 1 / alpha stay below this."""
    range_lr_factor: NonNegative = 0.01
    """Learning rate of activation ranges in the second phase, as a factor on the scales'."""

    quantizes_training = True  # no annotation: it is no setting
