"""The embedded corpora: plentiful, without repetitions, with nothing shared between splits."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter

import pytest

from qexp.conf.errors import UserError
from qexp.conf.schema import TaskConfig
from qexp.runner.tasks import load_corpus, pydocs, pydocs_questions
from qexp.runner.tasks.pydocs import Docstring

LABELS = TaskConfig(name="pydocs_labels", kind="pydocs_labels")
TEXT = TaskConfig(name="pydocs", kind="pydocs_text")
QUESTIONS = TaskConfig(name="pydocs_questions", kind="pydocs_questions")


def test_every_label_has_hundreds_of_examples_in_both_splits() -> None:
    corpus = load_corpus(LABELS, None)
    assert corpus.num_labels == len(pydocs.AREAS) == 6 and corpus.objective_default == "classification"
    for split, least in {"train": 250, "validation": 60}.items():
        counts = Counter(corpus.splits[split]["label"])
        assert sorted(counts) == list(range(6)) and min(counts.values()) >= least
        assert max(counts.values()) < sum(counts.values()) / 3, "one label is a third of all: chance is too good"


@pytest.mark.parametrize("cfg", [LABELS, TEXT], ids=lambda cfg: cfg.name)
def test_no_text_stands_twice_or_in_two_splits(cfg: TaskConfig) -> None:
    keys = [pydocs._key(text) for rows in load_corpus(cfg, None).splits.values() for text in rows["text"]]
    assert len(keys) == len(set(keys))


def test_running_text_is_split_by_document_and_holds_both_sources() -> None:
    splits = pydocs.text_splits()
    documents = {name: {document for _, document in rows} for name, rows in splits.items()}
    assert not documents["train"] & documents["validation"] and not documents["train"] & documents["test"]
    kinds = Counter(document.split()[0] for document in documents["train"])
    assert kinds["topic"] > 30 and kinds["file"] > 200
    assert sum(len(text) for text, _ in splits["train"]) > 1_000_000
    assert min(len(splits["validation"]), len(splits["test"])) > 150
    assert load_corpus(TEXT, None).objective_default is None


def test_docstrings_are_taken_from_modules_classes_and_functions_in_order() -> None:
    source = '''"""a"""
class A:
    """b"""
    def f(self):
        """c"""
if True:
    def g():
        "d"
x = "no"
'''
    assert list(pydocs._documented_in(ast.parse(source))) == [("", "a"), ("A", "b"), ("f", "c"), ("g", "d")]


def test_another_process_makes_the_same_and_imports_nothing_for_it() -> None:
    program = (
        "import sys\n"
        "from qexp.conf.schema import TaskConfig\n"
        "from qexp.runner.tasks import load_corpus\n"
        "before = set(sys.modules)\n"
        "print(load_corpus(TaskConfig(name='pydocs', kind='pydocs_text'), None).fingerprint)\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "assert new <= {'pydoc_data'}, new"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert other.strip() == load_corpus(TEXT, None).fingerprint


def test_a_python_without_sources_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pydocs, "_sources", lambda library, module: [])
    with pytest.raises(UserError, match="too few sources"):
        pydocs.labelled_splits.__wrapped__()


def test_only_the_splits_that_are_there_can_be_evaluated() -> None:
    with pytest.raises(UserError, match="no split 'test' here; it has train, validation"):
        load_corpus(TaskConfig(name="pydocs_labels", kind="pydocs_labels", eval_split="test"), None)


def test_every_question_has_its_name_in_its_context_once_as_asked() -> None:
    splits = load_corpus(QUESTIONS, None).splits
    assert len(splits["train"]["question"]) > 2500 and len(splits["validation"]["question"]) > 200
    for rows in splits.values():
        for question, context, answers in zip(rows["question"], rows["context"], rows["answers"], strict=True):
            (name,), (start,) = answers["text"], answers["answer_start"]
            sentence = question.removeprefix("What does this: ").removesuffix("?")
            assert context.startswith(f"{name}: {sentence}.", start) and context.count(f": {sentence}.") == 1


def test_no_context_of_questions_is_in_two_splits() -> None:
    splits = load_corpus(QUESTIONS, None).splits
    assert not set(splits["train"]["context"]) & set(splits["validation"]["context"])


def test_a_definition_without_a_sentence_of_its_own_is_not_asked_for() -> None:
    said = [("", "The module and what it is all about."), ("a", "Do this to that and the other one. Then\nrest.")]
    said += [
        ("b", "Do this to that and the other one."),
        ("c", "Short."),
        ("a", "Another thing that a method does here."),
    ]
    said += [(name, f"Return the {name} of a thing as it was.\n\nMore.") for name in ("width", "height", "depth")]
    rows = list(pydocs_questions._questions([Docstring("f.py", *each) for each in said]))
    assert [row["answers"]["text"][0] for row in rows] == ["a", "width", "height", "depth"]
    assert rows[0]["question"] == "What does this: Do this to that and the other one?"
    assert rows[0]["context"].endswith("depth: Return the depth of a thing as it was.")
