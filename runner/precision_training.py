"""Training in FP16, BF16 or FP8: the loss scale, steps that overflow, what is told of gradients, and exact resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from qexp.conf.schema import TrainConfig
from qexp.kernels.unit_scaling.scale import scaled
from qexp.models.certificate import Recorder
from qexp.models.precision import Precision
from qexp.runner.devices import random_state
from qexp.runner.loss_scale import LossScale
from qexp.runner.training import Diverged, MethodTrainer

STATE = "precision.json"
"""Beside the rest of a checkpoint: the loss scale, and what has been told of the gradients."""


class PrecisionTrainer(MethodTrainer):
    """A :class:`~qexp.runner.training.MethodTrainer` whose forward and backward passes are in a narrow format."""

    def install_precision(self, stack: ExitStack, precision: Precision, cfg: TrainConfig) -> None:
        """Put ``precision`` into the network for as long as ``stack``."""
        stack.enter_context(precision.installed(self.model))
        self.precision, self.loss_scale = precision, LossScale(cfg.loss_scale)
        self.told: dict[str, Any] = {}
        """The record's ``training.precision``, but for what only the end knows."""
        self.overflowed = False

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        result = super().compute_loss(*args, **kwargs)
        loss, *outputs = result if isinstance(result, tuple) else (result,)
        loss = scaled(loss, beta=self.loss_scale.value)
        return (loss, *outputs) if outputs else loss

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        self.precision.tally.restart((self.state.global_step + 1) % self.args.logging_steps == 0)
        before, plain = random_state(), partial(Trainer.training_step, self, model, inputs, num_items_in_batch)
        recorder = Recorder() if self.precision.executes and "certificate" not in self.told else None
        with ExitStack() as stack:
            stack.enter_context(self.precision.running())
            if recorder is not None:
                stack.enter_context(recorder)
            loss = super().training_step(model, inputs, num_items_in_batch)
        if "certificate" not in self.told:
            self.told["certificate"] = self.precision.certificate(recorder or Recorder())
        self._finish_gradients(before, plain)
        return loss

    def _finish_gradients(self, before: list[Tensor], again: Callable[[], object]) -> None:
        """Before the optimizer sees them: the loss scale taken out; or all removed, where one overflowed."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        largest = torch.nn.utils.get_total_norm(gradients, norm_type=float("inf"))
        if not torch.isfinite(largest):
            if not self.loss_scale.can_fall:
                raise self.named(f"a gradient became {largest.item()}", before, again)
            self.overflowed = True
        if not self.accelerator.sync_gradients:
            return
        if self.overflowed:
            self.loss_scale.fall()
            self.model.zero_grad(set_to_none=True)  # an optimizer leaves parameters without gradients as they are
        else:
            torch._foreach_div_(gradients, self.loss_scale.value)
            self.loss_scale.rise()
        self.overflowed = False

    def named(self, what: str, before: list[Tensor], again: Callable[[], object]) -> Diverged:
        with self.precision.running():
            return super().named(what, before, again)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        fresh, optimizer = self.optimizer is None, super().create_optimizer(model)
        if fresh:
            optimizer.register_step_post_hook(lambda made, *_: self.precision.after_step(made, self.loss_scale.value))
        return optimizer

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            self.told["tensors"] = self.precision.tally.shares()
            logs |= {"underflow": self.precision.tally.gradient_underflow(), "loss_scale": self.loss_scale.value}
        super().log(logs, *args, **kwargs)

    def facts(self) -> dict[str, Any]:
        """The record's ``training.precision``."""
        scale = self.loss_scale
        return {
            "precision": self.precision.name,
            **self.told,
            "loss_scale": scale.value,
            "skipped_steps": scale.skipped,
        }

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        folder.mkdir(parents=True, exist_ok=True)
        state = {"loss_scale": self.loss_scale.state(), "told": self.told}
        (folder / STATE).write_text(json.dumps(state), encoding="utf-8")
        super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        state = json.loads(Path(resume_from_checkpoint, STATE).read_text(encoding="utf-8"))
        self.loss_scale.load(state["loss_scale"])
        self.told = state["told"]
