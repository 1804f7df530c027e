"""Text of other distributions that a run evaluates too: from the names in ``task.ood`` to whole tasks.

A further set keeps where its text is and how its rows are joined; how it is read otherwise (windows, masks, split,
number of windows) is the main task's, so that the figures beside each other differ in the text alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from qexp.conf.errors import UserError
from qexp.conf.schema import IMAGE_KINDS, ExperimentConfig, TaskConfig

RUNNING_TEXT = ("text", "pydocs_text")


def settle_ood(
    config: ExperimentConfig, asked: Collection[str], task_of: Callable[[str], TaskConfig]
) -> ExperimentConfig:
    """``config`` with ``ood`` settled from ``task.ood``; all of them empty where nothing is to be evaluated.

    ``asked``: the keys that the user set; ``task_of``: the task of a name or folder. Raises ``UserError`` for sets that
    cannot be evaluated beside the task, or that the user asked for in vain.
    """
    task, wanted = config.task, config.eval.ood
    if "task.ood" in asked and task.ood and not wanted:
        raise UserError("task.ood is evaluated only with eval.ood=true")
    if wanted and task.ood:
        sets = tuple(_beside(task, _named(name, task_of)) for name in task.ood)
        _check(task, sets, config.data_dir)
        return replace(config, ood=sets)
    if wanted and "eval.ood" in asked:
        raise UserError(f"eval.ood=true: task={task.name} {_why_without(task)}")
    return replace(config, task=replace(task, ood=()), eval=replace(config.eval, ood=False))


def _named(name: str, task_of: Callable[[str], TaskConfig]) -> TaskConfig:
    try:
        return task_of(name)
    except UserError as error:
        raise UserError(f"task.ood: {error}") from None


def _why_without(task: TaskConfig) -> str:
    if task.kind in RUNNING_TEXT:
        return "has no text of other distributions; name some: task.ood=[TASK or folder of text]"
    return f"{without_running_text(task)}, and other distributions are evaluated for running text only"


def without_running_text(task: TaskConfig) -> str:
    """What a task of another kind is, in words that follow its name."""
    if task.kind in IMAGE_KINDS:
        return "is of images"
    return "is of characters" if task.kind == "characters" else "has labels"


def _beside(task: TaskConfig, other: TaskConfig) -> TaskConfig:
    if task.kind not in RUNNING_TEXT:
        raise UserError(f"task.ood: task={task.name} {_why_without(task)}")
    if other.kind not in RUNNING_TEXT:
        raise UserError(
            f"task.ood: {other.name} {without_running_text(other)}; name running text, like ptb, or a folder of text"
        )
    if other.kind == "text" and other.path is None:
        if other.folder is None:
            raise UserError(f"task.ood: {other.name} names no text; name the folder itself: task.ood=[path/to/folder]")
        other = replace(other, name=Path(other.folder).expanduser().resolve().name)
    return replace(
        other,
        objective=task.objective,
        max_length=task.max_length,
        mask_probability=task.mask_probability,
        train_examples=None,
        eval_examples=task.eval_examples,
        eval_split=task.eval_split,
        ood=(),
    )


def _check(task: TaskConfig, sets: tuple[TaskConfig, ...], data_dir: str | None) -> None:
    """Every set is its own text, under its own name."""
    for other in sets:
        if _sources(task, data_dir) & _sources(other, data_dir):
            raise UserError(f"task.ood: the OOD set {other.name} equals the training set, task={task.name}")
    if twice := [name for name, times in Counter(other.name for other in sets).items() if times > 1]:
        raise UserError(f"task.ood: two sets are called {twice[0]}")
    for one, other in combinations(sets, 2):
        if _sources(one, data_dir) & _sources(other, data_dir):
            raise UserError(f"task.ood: {one.name} and {other.name} are the same text")


def _sources(task: TaskConfig, data_dir: str | None) -> set[str]:
    """Where the text is: a folder, and the hub's data set, whose subsets are forms of one text."""
    folder = task.folder and str((Path(data_dir or ".").expanduser() / Path(task.folder).expanduser()).resolve())
    return {place for place in (task.path, folder) if place} or {task.kind}
