"""Vanilla attention has nothing to set."""

from pydantic.dataclasses import dataclass

from qexp.conf.schema import STRICT


@dataclass(frozen=True, config=STRICT)
class Settings:
    """No settings."""
