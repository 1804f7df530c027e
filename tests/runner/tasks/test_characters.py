"""Characters: which are tokens, which are scored, and what bits per character are."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qexp.conf.errors import UserError
from qexp.conf.schema import ModelConfig, TaskConfig
from qexp.models.tokenizers import load_tokenizer
from qexp.runner.compose import compose
from qexp.runner.tasks import Task, build_task, load_corpus
from qexp.runner.tasks.characters import SampledWindows, Windows
from qexp.runner.tasks.encoding import encode_lines

ROWS = [f" row {i} of <unk>, {'abc' * (i % 4)}\n" for i in range(40)]


def tokenizer_of(rows: list[str], cache: Path, **changes: Any) -> Any:
    settings = {"name": "m", "source": "scratch", "family": "charlm", "tokenizer": "characters", **changes}
    return load_tokenizer(ModelConfig(**settings), rows, None, cache)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Task]:
    """The rows as a folder of JSON lines, in which a row keeps its newline; 30 to train on, 10 to validate."""
    import json

    for split, rows in (("train", ROWS[:30]), ("validation", ROWS[30:])):
        text = "\n".join(json.dumps({"text": row}) for row in rows)
        (tmp_path / f"{split}.jsonl").write_text(text)

    def build(seed: int = 1000, **changes: Any) -> Task:
        settings = {"kind": "characters", "folder": str(tmp_path), "max_length": 12, "overlap": 4, **changes}
        cfg = TaskConfig(name="chars", **settings)
        corpus = load_corpus(cfg, None)
        tokenizer = tokenizer_of(list(corpus.texts()), tmp_path / "cache")
        return build_task(cfg, corpus, tokenizer, "causal_lm", cfg.max_length, seed, tmp_path / "cache")

    return build


def test_every_character_is_a_token_and_unknown_ones_are_one(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(["b a<unk>\n", "", "é "], tmp_path)
    assert tokenizer.get_vocab() == {t: i for i, t in enumerate(["<unk>", "<pad>", "\n", " ", "a", "b", "é"])}
    assert tokenizer("a<unk> u\n\né☃")["input_ids"] == [4, 0, 3, 0, 2, 2, 6, 0]
    assert tokenizer.decode([5, 3, 4, 2]) == "b a\n"


def test_the_most_frequent_characters_are_kept_where_there_is_no_room_for_all(tmp_path: Path) -> None:
    rows = ["".join(chr(0x4E00 + i) * (i + 1) for i in range(100))]
    tokenizer = tokenizer_of(rows, tmp_path, vocab_size=64)
    kept = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    assert kept == ["<unk>", "<pad>", *(chr(0x4E00 + i) for i in range(38, 100))]


@given(st.integers(12, 200), st.integers(2, 12), st.data())
def test_windows_in_order_score_every_character_but_the_first_once(total: int, length: int, data: Any) -> None:
    overlap = data.draw(st.integers(0, length - 1))
    ids = np.arange(total, dtype=np.int32)
    starts = np.arange(0, total - length + 1, length - overlap)
    windows = Windows(ids, starts, length, overlap)
    scored = [int(label) for i in range(len(windows)) for label in windows[i]["labels"][1:] if label >= 0]
    # without an overlap nothing before a window's first character is seen
    assert scored == [i for i in range(1, int(starts[-1]) + length) if overlap or i % length]


def test_training_windows_are_a_function_of_seed_and_epoch() -> None:
    ids = np.arange(1000, dtype=np.int32)
    one, same = (SampledWindows(ids, 12, 4, 500, seed=5, repeated=False) for _ in range(2))
    other = SampledWindows(ids, 12, 4, 500, seed=6, repeated=False)
    first = one.starts
    assert (first == same.starts).all() and (first != other.starts).any()
    one.set_epoch(3)
    same.set_epoch(2)
    assert (one.starts != same.starts).any()
    same.set_epoch(3)
    assert (one.starts == same.starts).all()
    repeated = SampledWindows(ids, 12, 4, 500, seed=5, repeated=True)
    repeated.set_epoch(3)
    assert (repeated.starts == first).all()
    assert first.min() >= 0 and first.max() <= 988 and len(set(first.tolist())) > 300
    assert len(SampledWindows(ids[:12], 12, 4, 3, seed=0, repeated=False)[2]["input_ids"]) == 12


def test_rows_are_lines_blank_ones_too(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(["ab"], tmp_path)
    assert encode_lines(tokenizer, ["ab", "", "b\n"]).tolist() == [3, 4, 2, 2, 4, 2]


def test_windows_in_order_are_the_text(make: Callable[..., Task]) -> None:
    task = make(overlap=0)
    text = "".join(task.tokenizer.decode(task.evaluation()[i]["input_ids"]) for i in range(len(task.evaluation())))
    assert "".join(ROWS[30:]).startswith(text) and len(text) > 150


def test_bits_per_character_are_those_of_a_loop_written_by_hand(make: Callable[..., Task], bigram: Any) -> None:
    task = make()
    model = bigram(len(task.tokenizer))
    log_p = model.table.double().log_softmax(-1)
    ids = task._arrays("validation")["ids"].tolist()
    covered = (len(ids) - 12) // 8 * 8 + 12
    losses = [-log_p[ids[t - 1], ids[t]].item() for t in range(1, covered)]
    metric = task.evaluate(model, 3, "cpu")["bits_per_character"]
    assert metric.n == len(losses) and not metric.higher_is_better
    assert metric.value == pytest.approx(sum(losses) / len(losses) / math.log(2), rel=1e-6)  # float32 log-softmax
    assert metric.value == task.evaluate(model, 7, "cpu")["bits_per_character"].value
    assert metric.definition.startswith("mean negative log-likelihood per character / ln 2")


def test_a_network_that_knows_nothing_needs_the_bits_of_its_vocabulary(
    make: Callable[..., Task], scripted: Any
) -> None:
    task = make(eval_examples=2)
    metric = task.evaluate(scripted(lambda ids: torch.zeros(*ids.shape, 32)), 5, "cpu")["bits_per_character"]
    assert metric.value == pytest.approx(5.0, rel=1e-6) and metric.n == 11 + 8


def test_training_and_calibration_sets(make: Callable[..., Task]) -> None:
    task = make()
    assert len(task.train()) == len(task._arrays("train")["ids"]) // 8  # type: ignore[arg-type]
    assert len(make(train_examples=5).train()) == 5  # type: ignore[arg-type]
    drawn = [task.calibration(6, seed)[i]["input_ids"].tolist() for seed in (1, 1, 2) for i in range(6)]
    assert drawn[:6] == drawn[6:12] != drawn[12:]
    with pytest.raises(UserError, match="shorter than one window of 4000 characters"):
        make(max_length=4000).train()


def test_a_task_of_characters_makes_any_causal_model_from_scratch_one_of_characters() -> None:
    config = compose(["task=wikitext2_chars", "model=tiny_gpt2", "scale=smoke"])
    assert config.model.tokenizer == "characters" and config.train.name == "pretrain_chars"
    assert compose(["task=wikitext2", "model=tiny_gpt2", "scale=smoke"]).model.tokenizer == "train"
    paper = compose(["task=wikitext2_chars", "model=charlm_rnn", "scale=paper"])
    assert (paper.task.max_length, paper.task.overlap, paper.train.max_steps) == (256, 32, 2**19)


CHARS = "task=wikitext2_chars"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([CHARS, "model=tiny_bert"], "predicts the next character, and tiny_bert masked ones; choose a causal model"),
        ([CHARS, "model=minilm"], "predicts the next character, and minilm masked ones"),
        ([CHARS, "model=smollm2"], "smollm2 was pretrained on tokens of its own, not characters; choose"),
        ([CHARS, "model=charlm_rnn", "task.joined_by=x"], "task.joined_by: rows of characters are lines"),
        ([CHARS, "model=tiny_gpt2", "model.tokenizer=train"], "needs model.tokenizer=characters, not train"),
        (
            [CHARS, "model=charlm_conv", "task.overlap=128"],
            "task.overlap=128 leaves nothing to score of windows of 128",
        ),
        (
            ["task=wikitext2", "model=tiny_gpt2", "task.overlap=4"],
            "only windows of characters and of questions overlap",
        ),
        ([CHARS, "model=charlm_conv", "eval.ood=true", "task.ood=[ptb]"], "is of characters, and other distributions"),
        (
            ["task=wikitext2", "model=tiny_gpt2", "eval.ood=true", "task.ood=[wikitext2_chars]"],
            "is of characters; name",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(overrides: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        compose(overrides)
    assert "\n" not in str(caught.value)
