"""Classification and regression: encoding, padding, subsets, metrics, and labels that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from qexp.conf.errors import UserError
from qexp.conf.schema import TaskConfig
from qexp.runner.tasks import Task, build_task, load_corpus
from qexp.runner.tasks.classification import Padding
from qexp.runner.tasks.glue import GLUE

CLS, SEP, PAD, W0 = 2, 3, 1, 5


def write_glue(folder: Path, name: str, **splits: list[Any]) -> None:
    """Rows whose label can be read off the first word: ``w<label>`` (tenths of a score for regression)."""
    task = GLUE[name]
    for split, labels in splits.items():
        first = [f"w{int(10 * label) if task.label_names is None else label} w20 w21" for label in labels]
        columns = {task.text_columns[0]: first, **{c: ["w30"] * len(labels) for c in task.text_columns[1:]}}
        table = pyarrow.table({**columns, "label": labels, "idx": list(range(len(labels)))})
        parquet.write_table(table, folder / f"{split}-00000-of-00001.parquet")


@pytest.fixture
def make(tmp_path: Path, bert_tokenizer: Any) -> Callable[..., Task]:
    def build(name: str, tokenizer: Any = None, seed: int = 1000, **changes: Any) -> Task:
        settings = {"kind": "glue", "subset": name, "folder": str(tmp_path), "max_length": 16, **changes}
        cfg = TaskConfig(name=name, **settings)
        corpus = load_corpus(cfg, None)
        assert corpus.objective_default is not None
        objective = changes.get("objective", corpus.objective_default)
        return build_task(cfg, corpus, tokenizer or bert_tokenizer, objective, cfg.max_length, seed, tmp_path / "cache")

    return build


def test_a_pair_is_encoded_as_the_tokenizer_does_and_cut_to_length(tmp_path: Path, make: Callable[..., Task]) -> None:
    write_glue(tmp_path, "rte", train=[0], validation=[1, 0])
    whole = make("rte").evaluation()[0]
    assert whole["input_ids"].tolist() == [CLS, W0 + 1, W0 + 20, W0 + 21, SEP, W0 + 30, SEP]
    assert whole["token_type_ids"].tolist() == [0, 0, 0, 0, 0, 1, 1] and whole["labels"] == 1
    assert len(make("rte", max_length=5).evaluation()[0]["input_ids"]) == 5


@pytest.mark.parametrize("left", [False, True])
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_padding_is_to_the_longest_on_the_tokenizers_side_and_masked(left: bool, lengths: list[int]) -> None:
    examples = [
        {"input_ids": torch.arange(10, 10 + n), "token_type_ids": torch.ones(n).long(), "labels": torch.tensor(i)}
        for i, n in enumerate(lengths)
    ]
    batch = Padding(pad_id=1, pad_type_id=7, left=left)(examples)
    assert batch["input_ids"].shape == (len(lengths), max(lengths)) and batch["labels"].tolist() == [
        *range(len(lengths))
    ]
    for row, n in enumerate(lengths):
        real = slice(-n, None) if left else slice(0, n)
        assert batch["input_ids"][row, real].tolist() == list(range(10, 10 + n))
        assert batch["attention_mask"][row].sum() == n and batch["attention_mask"][row, real].all()
        padded = batch["attention_mask"][row] == 0
        assert (batch["input_ids"][row][padded] == 1).all() and (batch["token_type_ids"][row][padded] == 7).all()


def test_padding_follows_the_tokenizer(bert_tokenizer: Any, gpt_tokenizer: Any) -> None:
    assert Padding.of(bert_tokenizer) == Padding(PAD, 0, left=False)
    assert Padding.of(gpt_tokenizer).pad_id == gpt_tokenizer.eos_token_id


@pytest.mark.parametrize("name", [name for name in GLUE if name != "mnli"])
def test_each_task_is_scored_with_its_metrics(
    tmp_path: Path, make: Callable[..., Task], scripted: Any, name: str
) -> None:
    labels = [0, 1, 1, 0, 1] if GLUE[name].label_names else [0.1, 3.0, 2.0, 1.5, 0.4]
    write_glue(tmp_path, name, train=labels, validation=labels)
    task = make(name)
    knows = scripted(lambda ids: torch.eye(45)[ids[:, 1]][:, W0 : W0 + 2])
    guesses = scripted(lambda ids: (ids[:, 1:2] - W0) / 10.0)
    found = task.evaluate(guesses if task.objective == "regression" else knows, 2, "cpu")
    assert set(found) == set(GLUE[name].metrics) and task.primary_metric == GLUE[name].metrics[0]
    assert all(metric.value == pytest.approx(1.0) and metric.n == 5 for metric in found.values())
    assert all(
        metric.higher_is_better and f"GLUE {name}, split validation" in metric.definition for metric in found.values()
    )
    assert task.num_labels == (1 if GLUE[name].label_names is None else 2)


def test_a_wrong_network_is_scored_as_wrong(tmp_path: Path, make: Callable[..., Task], scripted: Any) -> None:
    write_glue(tmp_path, "sst2", train=[0, 1], validation=[1, 1, 1, 0])
    always_zero = scripted(lambda ids: torch.tensor([[1.0, 0.0]]).expand(len(ids), 2))
    found = make("sst2").evaluate(always_zero, 3, "cpu")
    assert found["accuracy"].value == 0.25
    assert [batch["attention_mask"].shape[0] for batch in always_zero.batches] == [3, 1]


def test_predictions_are_told_apart_by_their_examples(tmp_path: Path, make: Callable[..., Task], scripted: Any) -> None:
    write_glue(tmp_path, "sst2", train=[0, 1], validation=[1, 1, 1, 0])
    always_zero = scripted(lambda ids: torch.tensor([[1.0, 0.0]]).expand(len(ids), 2))
    found = {size: make("sst2").measure(always_zero, size, "cpu")[1][""] for size in (1, 3)}
    assert found[1].examples == found[3].examples, "whatever the batches"
    assert (found[3].kind, found[3].values.tolist(), found[3].references.tolist()) == ("class", [0] * 4, [1, 1, 1, 0])
    fewer = make("sst2", eval_examples=3).measure(always_zero, 3, "cpu")[1][""]
    assert fewer.examples != found[3].examples


def test_mnli_is_evaluated_on_both_sets(tmp_path: Path, make: Callable[..., Task], scripted: Any) -> None:
    write_glue(tmp_path, "mnli", train=[0], validation_matched=[0, 0, 1, 2], validation_mismatched=[0, 1, 2])
    always_zero = scripted(lambda ids: torch.tensor([[1.0, 0.0, 0.0]]).expand(len(ids), 3))
    found = make("mnli").evaluate(always_zero, 8, "cpu")
    assert found["accuracy"].value == 0.5 and found["accuracy"].n == 4
    assert (
        found["accuracy_mm"].value == pytest.approx(1 / 3)
        and "validation_mismatched" in found["accuracy_mm"].definition
    )


def test_subsets_are_shuffled_for_training_and_the_first_for_evaluation(
    tmp_path: Path, make: Callable[..., Task]
) -> None:
    write_glue(tmp_path, "stsb", train=[i / 10 for i in range(40)], validation=[i / 10 for i in range(10)])

    def labels(data: Any) -> list[float]:
        return [round(float(data[i]["labels"]), 1) for i in range(len(data))]

    part = make("stsb", train_examples=8, eval_examples=3)
    assert labels(part.evaluation()) == [0.0, 0.1, 0.2]
    assert len(set(labels(part.train()))) == 8 and labels(part.train()) != sorted(labels(part.train()))
    assert labels(part.train()) != labels(make("stsb", train_examples=8, seed=5).train())
    assert set(labels(part.calibration(5, seed=1))) < set(labels(part.train()))
    assert labels(part.calibration(5, seed=1)) == labels(part.calibration(5, seed=1))
    assert len(labels(part.calibration(100, seed=1))) == 8
    assert all(
        (data[i]["input_ids"][1] - W0) == round(10 * float(data[i]["labels"]))
        for data in (part.train(), part.calibration(5, 1), make("stsb").train())
        for i in range(len(data))  # type: ignore[arg-type]
    )


def test_hidden_labels_and_labels_that_do_not_fit_are_user_errors(tmp_path: Path, make: Callable[..., Task]) -> None:
    write_glue(tmp_path, "sst2", train=[0, 1], validation=[0, 2], test=[-1, -1])
    with pytest.raises(UserError, match=r"split test are hidden.*eval_split=validation"):
        make("sst2", eval_split="test")
    with pytest.raises(UserError, match=r"label 2 does not fit 0 to 1 \(negative, positive\)"):
        make("sst2")
    write_glue(tmp_path, "sst2", train=[0, 1], validation=[0, 1])
    with pytest.raises(UserError, match=r"objective=regression is not possible with task=sst2; use classification"):
        make("sst2", objective="regression")
    with pytest.raises(UserError, match="no GLUE task; choose from cola"):
        load_corpus(TaskConfig(name="x", kind="glue", subset="imdb", folder=str(tmp_path)), None)


def test_a_tokenizer_that_cannot_pad_is_a_user_error(tmp_path: Path, make: Callable[..., Task]) -> None:
    from types import SimpleNamespace

    write_glue(tmp_path, "sst2", train=[0, 1], validation=[0, 1])
    with pytest.raises(UserError, match="no padding token"):
        make("sst2", tokenizer=SimpleNamespace(pad_token_id=None))
