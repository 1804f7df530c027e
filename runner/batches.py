"""Batches of inputs without labels, on the device of the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.utils.data import DataLoader

from qexp.conf.schema import CalibrationConfig
from qexp.methods.base import Batch

if TYPE_CHECKING:
    from qexp.runner.tasks import Task


def calibration_batches(settings: CalibrationConfig, task: Task, device: torch.device) -> list[Batch]:
    """Inputs for calibration, drawn from the training set with the calibration seed."""
    examples = task.calibration(settings.batches * settings.batch_size, settings.seed)
    loader = DataLoader(examples, batch_size=settings.batch_size, collate_fn=task.collator)
    return [inputs_of(batch, device) for batch in loader]


def inputs_of(batch: Batch, device: torch.device) -> Batch:
    """``batch`` without its labels."""
    return {name: tensor.to(device) for name, tensor in batch.items() if name != "labels"}
