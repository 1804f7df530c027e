"""Every ``conf/task/*.yaml`` composes at every scale, and is what its name says."""

from __future__ import annotations

import pytest

from qexp.conf.catalog import SCALES, choices
from qexp.runner.compose import compose
from qexp.runner.tasks.glue import GLUE

TEXTS = {"wikitext2", "wikitext2_raw", "ptb", "books", "encyclopedia", "text_folder", "pydocs"} | {
    "wikitext103",
    "bookcorpus_wiki40b",
}
CHARACTERS = {"wikitext2_chars", "wikitext103_chars"}
QUESTIONS = {"squad", "squad_v2", "pydocs_questions"}
IMAGES = {"digits", "cifar10", "imagenet", "image_folder"}
TEXTUAL = [name for name in choices("task") if name not in IMAGES]
LENGTHS = {"wikitext2_raw": 512, **dict.fromkeys(CHARACTERS, 256), **dict.fromkeys(QUESTIONS, 384)}


def test_there_is_a_choice_for_every_task() -> None:
    assert set(choices("task")) == TEXTS | set(GLUE) | {"pydocs_labels"} | QUESTIONS | CHARACTERS | IMAGES


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", TEXTUAL)
def test_a_task_composes_at_every_scale(name: str, scale: str) -> None:
    task = compose(
        [f"task={name}", f"scale={scale}", f"model={'charlm_conv' if name in CHARACTERS else 'tiny_bert'}"]
    ).task
    assert task.name == name and task.eval_split in ("validation", "test")
    if name in GLUE:
        assert (task.kind, task.subset, task.folder, task.path) == ("glue", name, f"glue/{name}", "nyu-mll/glue")
    if scale == "paper":
        assert task.train_examples is None and task.eval_examples is None
        assert task.max_length == LENGTHS.get(name, 128)
    if scale == "smoke":
        assert task.eval_examples is not None and task.eval_examples <= 32 and task.max_length <= 32
