"""A recipe as the arguments of Hugging Face's Trainer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import TrainingArguments

from qexp.conf.errors import UserError
from qexp.conf.schema import ExperimentConfig, TrainConfig


def training_arguments(cfg: ExperimentConfig, folder: Path, device: torch.device) -> TrainingArguments:
    """The recipe in the Trainer's words. Raises ``UserError`` for an optimizer or schedule that it does not know."""
    recipe = cfg.train
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=recipe.max_steps,
        per_device_train_batch_size=recipe.batch_size // recipe.devices,
        gradient_accumulation_steps=recipe.gradient_accumulation,
        optim=_known_optimizer(recipe.optimizer),
        learning_rate=recipe.learning_rate,
        adam_beta1=recipe.betas[0],
        adam_beta2=recipe.betas[1],
        adam_epsilon=recipe.epsilon,
        weight_decay=recipe.weight_decay,
        lr_scheduler_type=_known_schedule(recipe.schedule),
        lr_scheduler_kwargs=dict(recipe.schedule_options),
        warmup_steps=_warmup(recipe),
        max_grad_norm=recipe.max_grad_norm,
        logging_steps=recipe.logging_steps,
        save_steps=recipe.save_steps,
        save_total_limit=2,
        seed=cfg.seed,
        use_cpu=device.type == "cpu",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        logging_nan_inf_filter=False,
        dataloader_pin_memory=device.type == "cuda",
        average_tokens_across_devices=False,  # MethodTrainer weighs the parts of a batch itself
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # else one process would take every GPU that it sees, a batch for each
    return arguments


def _warmup(recipe: TrainConfig) -> int | float:
    return recipe.warmup_steps if recipe.warmup_steps < 1 else int(recipe.warmup_steps)


def _known_optimizer(name: str) -> str:
    from transformers.training_args import OptimizerNames

    return _known("train.optimizer", name, [str(item.value) for item in OptimizerNames])


def _known_schedule(name: str) -> str:
    from transformers.trainer_utils import SchedulerType

    return _known("train.schedule", name, [str(item.value) for item in SchedulerType])


def _known(key: str, name: str, choices: Sequence[str]) -> str:
    from difflib import get_close_matches

    if name in choices:
        return name
    near = get_close_matches(name, choices, n=3) or choices[:3]
    raise UserError(f"{key}={name}: unknown; did you mean {', '.join(near)}?")
