"""Settings of AdaRound."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from qexp.conf.schema import STRICT, NonNegative, Positive


@dataclass(frozen=True, config=STRICT)
class Settings:
    """How long and on what the rounding of every linear layer is learnt. The grids are those of ``quant.weights``."""

    steps: Positive = 1000
    """Steps of Adam for each layer."""
    batch_rows: Positive = 256
    """Tokens that a step looks at."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-2
    regularization: NonNegative = 0.01
    """lambda, the weight of the regulariser that makes the rounding hard (eq. 21)."""
    asymmetric: bool = True
    """A layer reads what the layers before it, rounded already, make (eq. 25), not what the float network's make."""

    @property
    def acts_in_training(self) -> bool:
        return False
