"""What watches a training run: progress, tracking, and the wish to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from qexp.conf.errors import RunError
from qexp.kernels.fixed_point.mapping import NotFiniteError
from qexp.runner import ranks
from qexp.runner.devices import random_state, set_random_state
from qexp.runner.stopping import StopRequest
from qexp.runner.tracking import VALIDATION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qexp.methods.base import BaseMethod
    from qexp.models.sites import AdaptedModel
    from qexp.runner.progress import ProgressReporter
    from qexp.runner.tasks import Task
    from qexp.runner.tracking import Tracker


class Watcher(TrainerCallback):  # type: ignore[misc]
    """Reports steps, hands logged figures to the tracker, calls the methods' ``after_step``, and stops when asked."""

    def __init__(
        self,
        model: AdaptedModel,
        methods: Sequence[BaseMethod],
        progress: ProgressReporter,
        tracker: Tracker,
        stop: StopRequest,
    ):
        self.model, self.methods, self.progress, self.tracker, self.stop = model, methods, progress, tracker, stop

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if ranks.rank():
            torch.manual_seed(args.seed + ranks.rank())  # dropout of its own; the data keep the order of the run's seed
        self.progress.start("training", state.max_steps)
        self.progress.advance(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        for method in self.methods:
            method.after_step(self.model, state.global_step)
        self.progress.advance(state.global_step, note=_last_loss(state))
        if ranks.any_of(self.stop.requested):
            self.stop.requested = True
            control.should_save = True
            control.should_training_stop = True

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **_: Any
    ) -> None:
        figures = {f"train/{key}": float(value) for key, value in logs.items() if isinstance(value, (int, float))}
        self.tracker.log(figures, step=state.global_step)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.progress.finish()


class Validation(TrainerCallback):  # type: ignore[misc]
    """Every ``tracker.validate_every`` steps, the primary metric of the network as it is so far, to the tracker.

    On examples that no reported figure rests on, where the task has such. Changes nothing about the training.
    """

    def __init__(self, model: AdaptedModel, task: Task, batch_size: int, device: torch.device, tracker: Tracker):
        self.model, self.task, self.tracker = model, task.held_out() or task, tracker
        self.batch_size, self.device = batch_size, device

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        every = self.tracker.validate_every
        if every is None or state.global_step % every or state.global_step == state.max_steps:
            return
        before = random_state()
        try:
            name, metric = next(iter(self.task.evaluate(self.model.module, self.batch_size, self.device).items()))
        except (RunError, NotFiniteError):
            return  # not finite: the next step of training says so, and where
        finally:
            set_random_state(before)
        self.tracker.log({f"{VALIDATION}{name}": metric.value}, step=state.global_step)


def _last_loss(state: TrainerState) -> str:
    loss = next((entry["loss"] for entry in reversed(state.log_history) if "loss" in entry), None)
    return "" if loss is None else f"loss {loss:.3f}"
