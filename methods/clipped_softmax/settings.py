"""Settings of clipped softmax."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from qexp.conf.schema import STRICT

PAPER_GAMMA = -0.025
"""Selected for BERT-base at T = 128 (paper, Table 2 and Table 5); alpha = 3.2 there."""


@dataclass(frozen=True, config=STRICT)
class Settings:
    """How far the softmax is stretched. Give ``gamma`` or ``alpha``; with neither, ``gamma`` is the paper's -0.025."""

    gamma: Annotated[float, Field(le=0.0, gt=-1.0)] | None = None
    """The stretch below zero; 0 with ``zeta=1`` is the ordinary softmax."""
    alpha: Annotated[float, Field(ge=0.0)] | None = None
    """The length form: ``gamma = -alpha / T`` with T the configured maximum length."""
    zeta: Annotated[float, Field(ge=1.0)] = 1.0
    """The stretch above one."""

    @model_validator(mode="after")
    def _one_of(self) -> Settings:
        if self.gamma is not None and self.alpha is not None:
            raise ValueError("give gamma or alpha, not both: alpha means gamma = -alpha / max_length")
        return self
