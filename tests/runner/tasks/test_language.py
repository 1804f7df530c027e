"""Language modelling: how rows become blocks, and what a perplexity is."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qexp.conf.errors import RunError, UserError
from qexp.conf.schema import Objective, TaskConfig
from qexp.runner.tasks import Task, build_task, load_corpus
from qexp.runner.tasks.encoding import cut, encode_running_text

CLS, SEP, MASK, W0 = 2, 3, 4, 5
END, G0 = 1, 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """41 training rows and 21 validation rows of five words."""
    rows = [" ".join(f"w{(3 * i + j * j) % 40}" for j in range(5)) for i in range(62)]
    (tmp_path / "train.txt").write_text("\n".join(rows[:41]))
    (tmp_path / "validation.txt").write_text("\n".join(rows[41:]))
    return tmp_path


@pytest.fixture
def make(
    folder: Path, tmp_path: Path, text_config: Callable[..., TaskConfig], bert_tokenizer: Any, gpt_tokenizer: Any
) -> Callable[..., Task]:
    def build(objective: Objective, *, seed: int = 1000, **changes: Any) -> Task:
        cfg = text_config(folder, **changes)
        tokenizer = bert_tokenizer if objective == "masked_lm" else gpt_tokenizer
        corpus = load_corpus(cfg, None)
        return build_task(cfg, corpus, tokenizer, objective, cfg.max_length, seed, tmp_path / "cache")

    return build


def test_rows_are_wrapped_in_special_tokens_and_blank_rows_left_out(bert_tokenizer: Any) -> None:
    ids = encode_running_text(bert_tokenizer, [" w0 w1 \n", "", " \n", "w2"], None)
    assert ids.tolist() == [CLS, W0, W0 + 1, SEP, CLS, W0 + 2, SEP]


def test_a_tokenizer_without_marks_gets_its_end_of_text_after_each_row(gpt_tokenizer: Any) -> None:
    assert encode_running_text(gpt_tokenizer, ["w0 w1", "", "w2"], None).tolist() == [G0, G0 + 1, END, G0 + 2, END]


def test_joined_rows_are_tokenised_as_one_text(gpt_tokenizer: Any, bert_tokenizer: Any) -> None:
    rows = ["w0 w1", "", "w2"]
    assert encode_running_text(gpt_tokenizer, rows, "\n\n").tolist() == [G0, G0 + 1, G0 + 2]
    assert encode_running_text(bert_tokenizer, rows, " w9 ").tolist() == [
        *(CLS, W0, W0 + 1, W0 + 9, W0 + 9, W0 + 2, SEP),
    ]


@given(st.integers(0, 100), st.integers(1, 12))
def test_blocks_hold_all_but_the_remainder_in_order(total: int, length: int) -> None:
    import numpy as np

    ids = np.arange(total, dtype=np.int32)
    blocks = cut(ids, length)
    assert blocks.shape == (total // length, length)
    assert blocks.reshape(-1).tolist() == ids[: total // length * length].tolist()


def test_causal_perplexity_is_that_of_a_loop_written_by_hand(make: Callable[..., Task], bigram: Any) -> None:
    task = make("causal_lm", eval_examples=7)
    model = bigram(42)
    log_p = model.table.double().log_softmax(-1)
    losses = []
    for i in range(7):
        ids = task.evaluation()[i]["input_ids"].tolist()
        losses += [-log_p[ids[t], ids[t + 1]].item() for t in range(7)]
    metric = task.evaluate(model, 3, "cpu")["perplexity"]
    assert metric.n == len(losses) == 49 and not metric.higher_is_better
    assert metric.value == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-6)  # float32 log-softmax


def test_masked_perplexity_counts_every_masked_token_alike(make: Callable[..., Task], bigram: Any) -> None:
    task = make("masked_lm", max_length=24)
    model = bigram(45)
    log_p = model.table.double().log_softmax(-1)
    losses, batch_means = [], []
    for i in range(len(task.evaluation())):
        example = task.evaluation()[i]
        here = [
            -log_p[int(example["input_ids"][t]), int(label)].item()
            for t, label in enumerate(example["labels"])
            if label != -100
        ]
        losses += here
        batch_means.append(sum(here) / len(here))
    metric = task.evaluate(model, 4, "cpu")["perplexity"]
    assert metric.n == len(losses)
    assert metric.value == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-6)  # float32 log-softmax
    assert metric.value != pytest.approx(math.exp(sum(batch_means) / len(batch_means)), rel=1e-3)


@pytest.mark.parametrize("objective", ["causal_lm", "masked_lm"])
def test_a_network_that_knows_nothing_has_the_vocabularys_size_as_perplexity(
    make: Callable[..., Task], scripted: Any, objective: Objective
) -> None:
    model = scripted(lambda ids: torch.zeros(*ids.shape, 45))
    assert make(objective).evaluate(model, 5, "cpu")["perplexity"].value == pytest.approx(45, rel=1e-6)


@pytest.mark.parametrize("objective", ["causal_lm", "masked_lm"])
def test_batch_size_changes_nothing_and_progress_counts_batches(
    make: Callable[..., Task], bigram: Any, objective: Objective
) -> None:
    task, model = make(objective, eval_examples=11), bigram(45)
    calls: list[tuple[int, int]] = []
    values = {
        size: task.evaluate(model, size, "cpu", lambda done, total: calls.append((done, total)))["perplexity"]
        for size in (1, 4, 11, 100)
    }
    assert len({metric.value for metric in values.values()}) == 1
    assert calls == [(i, n) for n in (11, 3, 1, 1) for i in range(1, n + 1)]


def test_evaluation_is_without_dropout_and_gives_the_mode_back(make: Callable[..., Task], bigram: Any) -> None:
    model = bigram(42).train()
    make("causal_lm", eval_examples=2).evaluate(model, 1, "cpu")
    assert model.modes == [False, False] and model.training
    assert all(set(batch) == {"input_ids"} for batch in model.batches)


def test_a_network_that_gives_nan_is_a_run_error(make: Callable[..., Task], scripted: Any) -> None:
    with pytest.raises(RunError, match="NaN or infinite"):
        make("causal_lm").evaluate(scripted(lambda ids: torch.full((*ids.shape, 42), math.nan)), 4, "cpu")


def test_an_absurd_loss_gives_the_largest_perplexity_that_json_holds(make: Callable[..., Task], scripted: Any) -> None:
    model = scripted(lambda ids: torch.arange(42.0).mul(-1e4).expand(*ids.shape, 42))
    assert make("causal_lm").evaluate(model, 4, "cpu")["perplexity"].value == math.exp(700.0)


def test_evaluation_masks_are_the_same_for_every_run(make: Callable[..., Task]) -> None:
    a, b = make("masked_lm", seed=1).evaluation(), make("masked_lm", seed=2).evaluation()
    assert all(torch.equal(a[i]["input_ids"], b[i]["input_ids"]) for i in range(len(a)))
    assert all(torch.equal(a[i]["input_ids"], a[i]["input_ids"]) for i in range(len(a)))


def test_training_masks_change_with_the_epoch_and_come_back_with_it(make: Callable[..., Task]) -> None:
    data: Any = make("masked_lm", max_length=64).train()
    epochs = []
    for epoch in (0, 1, 0):
        data.set_epoch(epoch)
        epochs.append(data[0]["input_ids"])
    assert torch.equal(epochs[0], epochs[2]) and not torch.equal(epochs[0], epochs[1])


def test_a_block_is_masked_alike_in_every_subset(make: Callable[..., Task]) -> None:
    whole: Any = make("masked_lm").train()
    part: Any = make("masked_lm", train_examples=5).train()
    assert len(part) == 5
    for place, index in enumerate(part.indices):
        assert torch.equal(part[place]["input_ids"], whole[int(index)]["input_ids"])


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 40))
def test_calibration_is_drawn_from_the_training_blocks_by_its_seed(
    tmp_path_factory: pytest.TempPathFactory, gpt_tokenizer: Any, seed: int, n: int
) -> None:
    folder = tmp_path_factory.mktemp("text")
    (folder / "train.txt").write_text("\n".join(f"w{i % 40} w{i // 40}" for i in range(200)))
    (folder / "validation.txt").write_text("w0 w1 w2 w3 w4 w5 w6 w7")
    cfg = TaskConfig(name="t", kind="text", folder=str(folder), max_length=6, train_examples=30)
    task = build_task(cfg, load_corpus(cfg, None), gpt_tokenizer, "causal_lm", 6, 1, folder / "cache")
    trained = {tuple(task.train()[i]["input_ids"].tolist()) for i in range(30)}
    drawn: Any = task.calibration(n, seed)
    chosen = [tuple(drawn[i]["input_ids"].tolist()) for i in range(len(drawn))]
    assert len(chosen) == min(n, 30) == len(set(drawn.indices)) and set(chosen) <= trained
    assert drawn.indices.tolist() == task.calibration(n, seed).indices.tolist()  # type: ignore[attr-defined]


def test_without_a_training_split_ranges_come_from_the_validation_split(
    folder: Path, make: Callable[..., Task]
) -> None:
    (folder / "train.txt").rename(folder / "test.txt")
    task = make("causal_lm", eval_split="test")
    validation = {tuple(block.tolist()) for block in task._blocks("validation")}  # type: ignore[attr-defined]
    drawn = task.calibration(10, 0)
    assert {tuple(drawn[i]["input_ids"].tolist()) for i in range(10)} <= validation
    with pytest.raises(UserError, match="no split 'train'"):
        task.train()


def test_the_definition_says_everything_that_a_comparison_needs(make: Callable[..., Task], bigram: Any) -> None:
    for objective, words in {"causal_lm": ["before it"], "masked_lm": ["15%", "80 %"]}.items():
        definition = make(objective).evaluate(bigram(45), 4, "cpu")["perplexity"].definition
        general = ["mean negative log-likelihood per token", "windows of 8", "stride 8", "no overlap", "detokenised"]
        general += ["split validation", "special tokens", "entries", "not over batches", "text_folder"]
        assert all(word in definition for word in [*words, *general]), definition
    joined = make("causal_lm", joined_by="\n\n").evaluate(bigram(45), 4, "cpu")["perplexity"].definition
    assert "joined into one text by a blank line" in joined


def test_text_shorter_than_a_block_and_an_impossible_objective_are_user_errors(make: Callable[..., Task]) -> None:
    with pytest.raises(UserError, match=r"shorter than one block of 4000 tokens.*max_length"):
        make("causal_lm", max_length=4000).evaluation()
    with pytest.raises(UserError, match="causal_lm or masked_lm"):
        make("classification")


def test_tokenised_text_is_kept_whatever_the_block_length(make: Callable[..., Task], tmp_path: Path) -> None:
    for length in (8, 16):
        make("causal_lm", max_length=length).evaluation()
    assert len(list((tmp_path / "cache" / "tokens").glob("*.npz"))) == 1
    make("masked_lm").evaluation()
    assert len(list((tmp_path / "cache" / "tokens").glob("*.npz"))) == 2
