"""A run whose network is trained from scratch first: the run that trains it, and where the trained network is.

Any run of the same ``model.pretrain`` and seed starts from the same trained network, kept like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from qexp.conf.errors import UserError
from qexp.conf.schema import (
    ExperimentConfig,
    MethodChoice,
    ModelConfig,
    Objective,
    Pretraining,
    TaskConfig,
    TrainConfig,
)
from qexp.methods.registry import BASELINE, from_scratch_only
from qexp.models.sources import MASKED_FAMILIES, family_of
from qexp.runner.ood import RUNNING_TEXT, without_running_text


def settle_pretraining(
    config: ExperimentConfig,
    task_of: Callable[[str], TaskConfig],
    recipe_of: Callable[[str, Mapping[str, Any]], TrainConfig],
) -> ExperimentConfig:
    """``config`` with ``pretraining`` settled from ``model.pretrain``.

    ``task_of`` knows names, and ``recipe_of`` names and the values that take the place of the recipe's.

    Raises ``UserError`` for a model that is trained already, and for what cannot be learnt from scratch.
    """
    wanted, model = config.model.pretrain, config.model
    if wanted is None:
        return config
    if model.source != "scratch":
        raise UserError(f"model.pretrain trains a model from scratch, and model={model.name} comes trained")
    objective: Objective = "masked_lm" if family_of(model) in MASKED_FAMILIES else "causal_lm"
    recipe = wanted.train or f"pretrain_{objective[0]}lm"
    try:
        task, train = task_of(wanted.task), recipe_of(recipe, wanted.settings)
    except UserError as error:
        raise UserError(f"model.pretrain: {error}") from None
    if task.kind not in RUNNING_TEXT:
        what = without_running_text(task)
        raise UserError(f"model.pretrain.task={wanted.task} {what}; name running text, like wikitext2")
    train = replace(train, max_steps=wanted.max_steps or train.max_steps, keep_model=True)
    if not train.max_steps:
        raise UserError(f"model.pretrain.train={recipe} trains nothing; leave it out, or give model.pretrain.max_steps")
    return replace(config, pretraining=Pretraining(replace(task, objective=objective, ood=()), train))


def pretraining_run(config: ExperimentConfig) -> ExperimentConfig:
    """The run whose trained network ``config`` starts from: without any method but those that it must have had."""
    assert config.pretraining is not None
    return replace(
        config,
        method=from_scratch_only(config.method) or (MethodChoice(BASELINE),),
        model=replace(config.model, pretrain=None, plant_outliers=None),
        task=config.pretraining.task,
        train=config.pretraining.train,
        pretraining=None,
        ood=(),
    )


def starting_model(config: ExperimentConfig, folder: Path) -> ModelConfig:
    """The model of ``config`` once it is trained and kept in ``folder``."""
    return replace(config.model, source="hub", path=str(folder), tokenizer="own", dimensions={}, pretrain=None)
