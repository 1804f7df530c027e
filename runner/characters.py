"""What a task of characters settles in a configuration: every character is a token, whatever the model."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from qexp.conf.errors import UserError
from qexp.conf.schema import QUESTION_KINDS, ExperimentConfig
from qexp.models.sources import is_pretrained
from qexp.models.tokenizers import CHARACTERS


def settle_characters(config: ExperimentConfig, asked: Collection[str]) -> ExperimentConfig:
    """``config`` with the tokenizer of characters where its task is of characters.

    ``asked``: the keys that the user set. Raises ``UserError`` for a model that cannot predict the next character, and
    for windows that cannot overlap as asked.
    """
    task, model = config.task, config.model
    if task.kind != "characters":
        if task.overlap and task.kind not in QUESTION_KINDS:
            raise UserError(
                f"task.overlap={task.overlap}: only windows of characters and of questions overlap; task={task.name} "
                "has neither"
            )
        return config
    if task.joined_by is not None:
        raise UserError(f"task.joined_by: rows of characters are lines, so task={task.name} joins them by nothing else")
    if task.overlap >= task.max_length:
        raise UserError(f"task.overlap={task.overlap} leaves nothing to score of windows of {task.max_length}")
    if task.objective != "causal_lm":
        raise UserError(f"task={task.name} predicts the next character, and {model.name} masked ones; {_MODELS}")
    if is_pretrained(model):
        raise UserError(
            f"task={task.name}: {model.name} was pretrained on tokens of its own, not characters; {_MODELS}"
        )
    if "model.tokenizer" in asked and model.tokenizer != CHARACTERS:
        raise UserError(f"task={task.name} needs model.tokenizer={CHARACTERS}, not {model.tokenizer}")
    return replace(config, model=replace(model, tokenizer=CHARACTERS))


_MODELS = "choose a causal model from scratch, as model=charlm_attention or model=tiny_gpt2"
