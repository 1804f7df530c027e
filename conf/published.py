"""A paper's figures beside ours in a table's specification: each with its source, each gap with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from qexp.conf.schema import STRICT, NonNegative


@dataclass(frozen=True, config=STRICT)
class PublishedFigure:
    """A figure that the paper prints, in the unit of ours; or null, and why there is none."""

    value: float | None
    spread: NonNegative | None = None
    source: str = ""
    """Paper, table, row."""
    reason: str = ""

    @model_validator(mode="after")
    def _told(self) -> PublishedFigure:
        if self.value is None and not self.reason:
            raise ValueError("a null needs a reason")
        if self.value is not None and not self.source:
            raise ValueError("a published value needs a source: paper, table and row")
        return self

    @property
    def text(self) -> str:
        """``1,294 ± 1,046``: the figure as the paper gives it, thousands separated; empty for a null."""
        return " ± ".join(f"{value:,g}" for value in (self.value, self.spread) if value is not None)


@dataclass(frozen=True, config=STRICT)
class PublishedConfig:
    """The paper's figures by row and column; null, and the reason, where none could be had.

    In YAML a figure is also ``4.49`` or ``4.49 ± 0.01``, with the ``source`` that stands here.
    """

    cells: dict[str, dict[str, PublishedFigure]] | None
    source: str = ""
    """Of the figures that name none of their own."""
    reason: str = ""
    """Why there is none in the cells that ``cells`` leaves out."""

    @model_validator(mode="after")
    def _told(self) -> PublishedConfig:
        if self.cells is None and not self.reason:
            raise ValueError("a null needs a reason")
        return self


def in_full(value: Any) -> Any:
    """Short figures in full, each with its source."""
    if not isinstance(value, Mapping) or not isinstance(value.get("cells"), Mapping):
        return value
    source = {"source": value["source"]} if value.get("source") else {}
    return {**value, "cells": {row: _row(figures, source) for row, figures in value["cells"].items()}}


def _row(figures: Any, source: dict[str, Any]) -> Any:
    if not isinstance(figures, Mapping):
        return figures
    return {column: source | _figure(figure) for column, figure in figures.items()}


def _figure(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    mean, _, spread = (part.strip() for part in str(value).partition("±"))
    return {"value": mean} | ({"spread": spread} if spread else {})
