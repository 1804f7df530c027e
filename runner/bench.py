"""Where a trained network is measured: with which task, on which device, and who is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.utils.data import DataLoader

from qexp.conf.schema import ExperimentConfig
from qexp.methods.base import BaseMethod, Batch
from qexp.runner.batches import inputs_of
from qexp.runner.trained import Trained

if TYPE_CHECKING:
    from qexp.runner.progress import ProgressReporter
    from qexp.runner.tasks import Task


@dataclass(frozen=True)
class Bench:
    """What every measurement of one experiment needs."""

    cfg: ExperimentConfig
    trained: Trained
    task: Task
    device: torch.device
    progress: ProgressReporter

    @property
    def network(self) -> torch.nn.Module:
        """The trained float network."""
        return self.trained.model.module

    @property
    def methods(self) -> tuple[BaseMethod, ...]:
        return tuple(self.trained.methods)

    def first_batches(self) -> list[Batch]:
        """The first ``eval.outlier_batches`` batches of the evaluation set."""
        wanted = self.cfg.eval
        loader = DataLoader(self.task.evaluation(), batch_size=wanted.batch_size, collate_fn=self.task.collator)
        return [inputs_of(batch, self.device) for _, batch in zip(range(wanted.outlier_batches), loader, strict=False)]

    @contextmanager
    def phase(self, name: str, batches: list[Batch]) -> Iterator[Iterator[Batch]]:
        """The batches of a phase ``name``, each told of when it is done with."""
        with self.unsized_phase(name, len(batches)):
            yield self._told(batches)

    @contextmanager
    def unsized_phase(self, name: str, total: int | None = None) -> Iterator[None]:
        """A phase that tells of its own steps."""
        self.progress.start(name, total)
        try:
            yield
        finally:
            self.progress.finish()

    def _told(self, batches: list[Batch]) -> Iterator[Batch]:
        for done, batch in enumerate(batches, start=1):
            yield batch
            self.progress.advance(done)
