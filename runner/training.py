"""Training: Hugging Face's Trainer with the methods' losses, exact resume, and an end when the loss diverges."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer

from qexp.conf.schema import ExperimentConfig, TrainConfig
from qexp.kernels.fixed_point.mapping import NotFiniteError
from qexp.methods.base import BaseMethod, ParameterRule
from qexp.models.capture import capture
from qexp.models.certificate import Recorder
from qexp.models.not_finite import first_not_finite
from qexp.models.precision import make_precision
from qexp.models.predicted import is_masked_lm, predicted_rows_only
from qexp.models.quiet import quiet
from qexp.models.sites import AdaptedModel
from qexp.models.surgery import set_dropout
from qexp.runner import checkpoints, ranks
from qexp.runner.arguments import training_arguments
from qexp.runner.callbacks import Validation, Watcher
from qexp.runner.devices import random_state, set_random_state
from qexp.runner.optimizer import freeze, keep_embeddings_in_32_bits, parameter_groups
from qexp.runner.scale_recorder import ScaleRecorder, scale_curves
from qexp.runner.stopping import StopRequest
from qexp.runner.tasks.epochs import TellEpoch

if TYPE_CHECKING:
    from qexp.runner.progress import ProgressReporter
    from qexp.runner.tasks import Task
    from qexp.runner.tracking import Tracker


class Diverged(Exception):
    """NaN or infinity in the loss, or in a tensor that a method maps. ``step`` is the last finished optimizer step."""

    def __init__(self, step: int, what: str):
        super().__init__(f"{what} after step {step}")
        self.step, self.what = step, what
        self.scales: dict[str, Any] = {}
        """As :attr:`TrainingResult.scales`, of the steps before."""

    def __reduce__(self) -> tuple[type[Diverged], tuple[int, str], dict[str, Any]]:
        return Diverged, (self.step, self.what), self.__dict__


class StoppedElsewhere(Exception):
    """Training diverged in another of the processes that train together, which says why."""


@dataclass(frozen=True)
class TrainingResult:
    steps: int
    final_loss: float | None
    curve: list[dict[str, float]]
    """Logged figures, each with its ``step``: ``loss``, ``learning_rate``, ``grad_norm``; in a narrow format
    ``underflow`` and ``loss_scale`` too."""
    resumed_from: int | None = None
    seconds_per_step: float | None = None
    """Wall seconds of the steps of this process, over their number: checkpoints and logging are in them."""
    certificates: dict[str, Any] = field(default_factory=dict)
    """Method -> what the first step of this process really multiplied, for methods that claim something of it."""
    precision: dict[str, Any] = field(default_factory=dict)
    """Of FP16, BF16 and FP8: certificate, what the format lost of each tensor, loss scale (``docs/precision.md``)."""
    scales: dict[str, Any] = field(default_factory=dict)
    """Standard deviations of all tensors every ``train.scales_every`` steps (``docs/record.md``)."""


def train(
    cfg: ExperimentConfig,
    model: AdaptedModel,
    methods: Sequence[BaseMethod],
    task: Task,
    folder: Path,
    resume_from: Path | None,
    device: torch.device,
    progress: ProgressReporter,
    tracker: Tracker,
    stop: StopRequest | None = None,
) -> TrainingResult:
    """Train ``model`` in place with checkpoints below ``folder``, going on from one of them where it is given.

    One of several processes (:mod:`~qexp.runner.ranks`) does its part. ``stop``: a wish that may be there already.

    Raises:
        Diverged: if the loss stops being finite; the last checkpoint stays. StoppedElsewhere.
        KeyboardInterrupt: after SIGINT or SIGTERM, once a checkpoint is written.
    """
    from qexp.runner.precision_training import PrecisionTrainer

    _tell_of_loss_scale(cfg.train, methods, progress)
    freeze(model.module, cfg.train.freeze)
    set_dropout(model.module, cfg.train.dropout)
    examples, precision, stop = task.train(), make_precision(cfg.train), stop or StopRequest()
    watchers: list[Any] = [TellEpoch(examples), Watcher(model, methods, progress, tracker, stop)]
    if tracker.validate_every is not None:
        watchers.append(Validation(model, task, cfg.eval.batch_size, device, tracker))
    with ExitStack() as stack:
        stack.enter_context(quiet())
        trainer = (MethodTrainer if precision is None else PrecisionTrainer)(
            model=model.module,
            args=training_arguments(cfg, folder, device),
            train_dataset=examples,
            data_collator=task.collator,
            callbacks=watchers,
        )
        trainer.install(stack, model, methods, cfg.train)
        if isinstance(trainer, PrecisionTrainer) and precision is not None:
            trainer.install_precision(stack, precision, cfg.train)
        stack.enter_context(stop.listening())
        try:
            output = trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
        except Diverged as error:
            error.scales = scale_curves(trainer.state.log_history)
            raise
    if stop.requested and trainer.state.global_step < cfg.train.max_steps:
        raise KeyboardInterrupt
    curve = [_figures(entry) for entry in trainer.state.log_history if "loss" in entry]
    begun = int(resume_from.name.rsplit("-", 1)[1]) if resume_from else None
    steps = trainer.state.global_step - (begun or 0)
    return TrainingResult(
        steps=trainer.state.global_step,
        final_loss=curve[-1]["loss"] if curve else float(output.training_loss),
        curve=curve,
        resumed_from=begun,
        seconds_per_step=float(output.metrics["train_runtime"]) / steps if steps else None,
        certificates=trainer.certificates,
        precision=trainer.facts() if isinstance(trainer, PrecisionTrainer) else {},
        scales=scale_curves(trainer.state.log_history),
    )


def _tell_of_loss_scale(cfg: TrainConfig, methods: Sequence[BaseMethod], progress: ProgressReporter) -> None:
    for method in methods:
        if cfg.loss_scale is not None and method.needs_no_loss_scale:
            progress.message(
                f"train.loss_scale={cfg.loss_scale}: the gradients of method={method.name} are of unit scale already, "
                "and a loss scale moves them away from it; leave it out"
            )


class MethodTrainer(Trainer):  # type: ignore[misc]
    """A Trainer whose loss is the task's plus the methods' and the FFN-output penalty."""

    optimizer: torch.optim.Optimizer | None
    loss_is_scaled_for_ga: bool | None = None
    """The Trainer's: whether the loss of one of several accumulated batches is its share of a mean over all of them;
    None until that is known."""

    def install(self, stack: ExitStack, model: AdaptedModel, methods: Sequence[BaseMethod], cfg: TrainConfig) -> None:
        """Give the trainer what its constructor has no place for. Hooks live as long as ``stack``."""
        self.remove_callback(PrinterCallback)
        self.adapted, self.methods, self.cfg = model, methods, cfg
        self.unproven = [m for m in methods if type(m).certify_step is not BaseMethod.certify_step]
        self.certificates: dict[str, Any] = {}
        self.scales = ScaleRecorder(model, cfg.scales_every)
        if is_masked_lm(model.module) and not any(method.scores_every_position for method in methods):
            stack.enter_context(predicted_rows_only(model.module))
        self.ffn_outputs: Mapping[str, Tensor] = {}
        self.weight = 1.0
        if cfg.ffn_output_penalty:
            self.ffn_outputs = stack.enter_context(capture(model.module, model.sites.with_role("ffn_output")))

    def get_batch_samples(self, *args: Any) -> tuple[list[Any], Tensor | int | None]:
        """A step's batches and how many items (labels) they have, which weighs this process's part of all batches."""
        samples, items = super().get_batch_samples(*args)
        if self.loss_is_scaled_for_ga is None and items is not None and len(samples) > 1:
            self.loss_is_scaled_for_ga = self._loss_counts(samples[0], items)
        self.weight = 1.0 if items is None else ranks.weight_of(items)
        return samples, items

    def _loss_counts(self, batch: dict[str, Any], items: Tensor | int) -> bool:
        """Whether the network's loss is a sum over the accumulated batch's ``items``.

        transformers takes it for granted of every network that takes further arguments, but BERT's and others' losses
        are means whatever they are given: then it is the Trainer that must divide by the number of accumulated batches.
        """
        inputs, before = self._prepare_inputs(batch), random_state()
        losses = []
        self.model.eval()
        for number in (items, 2 * items):
            set_random_state(before)
            with torch.no_grad():
                losses.append(float(Trainer.compute_loss(self, self.model, inputs, num_items_in_batch=number)))
        self.model.train()
        set_random_state(before)
        return math.isclose(losses[0], 2 * losses[1], rel_tol=0.1)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss, outputs = result if return_outputs else (result, None)
        loss = loss * self.weight + self._extra_loss(num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def _extra_loss(self, num_items_in_batch: Tensor | int | None) -> Tensor | float:
        extra: Tensor | float = sum((method.extra_loss(self.adapted) for method in self.methods), start=0.0)
        if self.cfg.ffn_output_penalty:
            squares = [output.square().mean() for output in self.ffn_outputs.values()]
            extra = extra + self.cfg.ffn_output_penalty * torch.stack(squares).sum()
        # A loss normalised over the whole accumulated batch is summed over its parts, so this one must be shared out.
        counts = self.model_accepts_loss_kwargs and self.loss_is_scaled_for_ga is not False
        shared_out = counts and num_items_in_batch is not None
        return extra / self.current_gradient_accumulation_steps if shared_out else extra

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        recorder = Recorder() if self.unproven else None
        # Done again, the pass of one of several processes waits for no other: it is that of the bare network.
        before, again = random_state(), partial(super().training_step, self.model, inputs, num_items_in_batch)
        try:
            with recorder or nullcontext(), self.scales.over(self.state, self.accelerator.sync_gradients):
                loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        except NotFiniteError as error:
            raise Diverged(self.state.global_step, str(error)) from error
        finite = bool(torch.isfinite(loss))
        if ranks.any_of(not finite):
            raise StoppedElsewhere if finite else self.named(f"the loss became {loss.item()}", before, again)
        while recorder is not None and self.unproven:
            method = self.unproven.pop()
            self.certificates[method.name] = method.certify_step(self.adapted, recorder)
        return loss

    def named(self, what: str, before: list[Tensor], again: Callable[[], object]) -> Diverged:
        """The end of a run whose last pass, done again with the same random numbers, says where it went wrong."""
        set_random_state(before)
        tensor = first_not_finite(self.model, again)
        return Diverged(self.state.global_step, f"{what}, first in {tensor}" if tensor else what)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            rules: list[ParameterRule] = [rule for method in self.methods for rule in method.parameter_rules()]
            optimizer_class, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            groups = parameter_groups(self.model, self.cfg, rules)
            self.optimizer = optimizer_class(groups, **settings)
            if "8bit" in self.cfg.optimizer:
                keep_embeddings_in_32_bits(self.model)
        return self.optimizer

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        ranks.any_of(False)  # each process has written its random state
        if ranks.rank() == 0:
            checkpoints.seal(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")


def resume_point(folder: Path, progress: ProgressReporter) -> Path | None:
    """The last whole checkpoint below ``folder``; tells of it, and of broken ones that were set aside."""
    checkpoint, broken = checkpoints.last_checkpoint(folder)
    for path in broken:
        progress.message(f"set aside a broken checkpoint: {path}")
    if checkpoint is not None:
        progress.message(f"going on from {checkpoint.name}")
    return checkpoint


def _figures(entry: Mapping[str, Any]) -> dict[str, float]:
    kept = ("step", "loss", "learning_rate", "grad_norm", "underflow", "loss_scale")
    return {key: float(entry[key]) for key in kept if key in entry and math.isfinite(float(entry[key]))}
