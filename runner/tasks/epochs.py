"""How a dataset learns the epoch under the Hugging Face Trainer."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class TellEpoch(TrainerCallback):  # type: ignore[misc]  # transformers is not followed by mypy
    """Calls ``dataset.set_epoch`` at the start of every epoch, if the dataset has it.

    accelerate would do so itself, but not for the loader of a run resumed within an epoch (a ``SkipBatchSampler`` hides
    the dataset from ``DataLoaderShard.set_epoch``), which then repeats the masks of epoch 0.
    """

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(int(state.epoch or 0))
