"""Settings of SmoothQuant."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from qexp.conf.schema import STRICT, Fraction, ScalingRoles


@dataclass(frozen=True, config=STRICT)
class Settings:
    """How far, and where, magnitude moves from activations to weights."""

    strength: Fraction = 0.5
    """The paper's alpha: 0 levels the weights' columns, 1 the activations' channels."""
    roles: ScalingRoles | None = None
    """Null: the normalisations that fold, and where none does (BERT) ``value``."""

    @property
    def acts_in_training(self) -> bool:
        return False
