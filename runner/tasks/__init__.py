"""Tasks: what is learnt and measured. ``load_corpus`` reads rows; ``build_task`` makes examples and metrics of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qexp.conf.errors import UserError
from qexp.conf.schema import Objective, TaskConfig
from qexp.runner.tasks.base import Task, TokenTask
from qexp.runner.tasks.characters import CharacterTask
from qexp.runner.tasks.classification import LabelledTask, label_metrics
from qexp.runner.tasks.corpus import Corpus, load_corpus, load_evaluated_text
from qexp.runner.tasks.image_classification import ImageTask
from qexp.runner.tasks.image_corpus import ImageCorpus, load_images
from qexp.runner.tasks.language import LanguageTask
from qexp.runner.tasks.questions import QuestionTask

__all__ = [
    "Corpus",
    "ImageCorpus",
    "Task",
    "build_further",
    "build_task",
    "load_corpus",
    "load_images",
    "primary_metric",
]

TEXT_TASKS: dict[str, type[TokenTask]] = {
    "text": LanguageTask,
    "pydocs_text": LanguageTask,
    "characters": CharacterTask,
    "glue": LabelledTask,
    "pydocs_labels": LabelledTask,
    "squad": QuestionTask,
    "pydocs_questions": QuestionTask,
}
"""``task.kind`` -> what is learnt and measured; all other kinds are images."""


def primary_metric(kind: str, subset: str | None) -> str:
    """Name of the metric that a table shows of a task, known without its data."""
    task = TEXT_TASKS.get(kind, ImageTask)
    return label_metrics(kind, subset)[0] if task is LabelledTask else task.primary_metric


def build_task(
    cfg: TaskConfig,
    corpus: Corpus | ImageCorpus,
    tokenizer: Any,
    objective: Objective,
    max_length: int,
    seed: int,
    cache_dir: Path,
) -> Task:
    """The task of ``corpus`` for a tokenizer, or of images for a pixel format in its place.

    Text is tokenised when first needed and kept below ``cache_dir``. Raises ``UserError`` where ``objective`` is none
    of the corpus's, or the tokenizer lacks a token that it needs.
    """
    if isinstance(corpus, ImageCorpus):
        return ImageTask(cfg, corpus, tokenizer, objective, max_length, seed)
    possible = ("causal_lm", "masked_lm") if corpus.objective_default is None else (corpus.objective_default,)
    if objective not in possible:
        raise UserError(f"task.objective={objective} is not possible with task={cfg.name}; use {' or '.join(possible)}")
    return TEXT_TASKS[cfg.kind](cfg, corpus, tokenizer, objective, max_length, seed, cache_dir)


def build_further(cfg: TaskConfig, data_dir: str | None, tokenizer: Any, seed: int, cache_dir: Path) -> Task:
    """A task that is evaluated beside another one, and only evaluated.

    Raises ``UserError`` where it has no data here, naming the ways out.
    """
    assert cfg.objective != "auto", "composing settles the objective"
    try:
        corpus = load_evaluated_text(cfg, data_dir)
        task = build_task(cfg, corpus, tokenizer, cfg.objective, cfg.max_length, seed, cache_dir)
        task.evaluation()
    except UserError as error:
        raise UserError(f"OOD set {cfg.name}: {error}; or leave it out: task.ood=[...], eval.ood=false") from None
    return task
