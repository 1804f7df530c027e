"""Stop a cell early whose figures during training are worse than the median of the cells before it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import optuna

from qexp.results.schema import Record
from qexp.runner.sweep.search import Pruned
from qexp.runner.tracking import VALIDATION, Tracker

LOOKS = 10
"""A cell is looked at so many times while it trains."""


class PruningTracker:
    """A tracker around ``inner`` that asks for validation figures, reports them to ``trial``, and may end the cell."""

    def __init__(self, inner: Tracker, trial: optuna.Trial, max_steps: int):
        self._inner, self._trial = inner, trial
        self.validate_every: int | None = max(1, max_steps // LOOKS)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Raises :class:`Pruned`."""
        self._inner.log(metrics, step)
        for name, value in metrics.items():
            if name.startswith(VALIDATION):
                self._judge(name.removeprefix(VALIDATION), value, step)

    def _judge(self, name: str, value: float, step: int) -> None:
        if not math.isfinite(value):
            return
        self._trial.report(value, step)
        if self._trial.should_prune():
            raise Pruned(f"{name} {value:.4g} at step {step}: worse than the median of the cells before")

    def summary(self, record: Record) -> None:
        self._inner.summary(record)

    def table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        self._inner.table(name, columns, rows)

    def address(self) -> str | None:
        return self._inner.address()

    def close(self, exit_code: int = 0) -> None:
        self._inner.close(exit_code)
