"""Settings of LLM.int8()."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from qexp.conf.schema import STRICT


@dataclass(frozen=True, config=STRICT)
class Settings:
    """Which columns stay in 16-bit floating point, and which layers stay as they are."""

    threshold: Annotated[float, Field(gt=0.0)] = 6.0
    """A column with an element of at least this magnitude is multiplied in 16-bit floating point (the paper's 6)."""
    exclude: tuple[str, ...] = ()
    """Layers whose dotted name contains one of these stay in floating point; the head always does, as there."""

    @property
    def acts_in_training(self) -> bool:
        return False
