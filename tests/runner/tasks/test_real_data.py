"""The real data sets: row counts, published token counts, and that each becomes a task."""

from __future__ import annotations

from pathlib import Path

import pytest

from qexp.conf.schema import TaskConfig
from qexp.runner.compose import compose
from qexp.runner.tasks import build_task, load_corpus

pytestmark = pytest.mark.data

ROWS = {
    "sst2": (67349, 872),
    "cola": (8551, 1043),
    "mrpc": (3668, 408),
    "rte": (2490, 277),
    "stsb": (5749, 1500),
    "wikitext2": (36718, 3760),
    "ptb": (42068, 3370),
    "books": (40319, 498),
    "encyclopedia": (7716, 99),
}


def config(name: str) -> TaskConfig:
    return compose([f"task={name}", "scale=smoke", "model=tiny_bert"]).task


@pytest.mark.parametrize("name", ROWS)
def test_every_row_is_there(name: str, data_dir: Path) -> None:
    cfg = config(name)
    corpus = load_corpus(cfg, str(data_dir))
    column = corpus.text_columns[0]
    assert (len(corpus.splits["train"][column]), len(corpus.splits["validation"][column])) == ROWS[name]


@pytest.mark.parametrize(("name", "label", "n"), [("sst2", 1, 444), ("cola", 1, 721), ("mrpc", 1, 279)])
def test_labels_are_the_official_ones(name: str, label: int, n: int, data_dir: Path) -> None:
    assert list(load_corpus(config(name), str(data_dir)).splits["validation"]["label"]).count(label) == n


@pytest.mark.slow
def test_gpt2s_tokens_of_the_raw_test_text_are_the_published_number(data_dir: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    cfg = config("wikitext2_raw")
    corpus = load_corpus(cfg, str(data_dir))
    assert set(corpus.splits) == {"validation", "test"} and len(corpus.splits["test"]["text"]) == 4358
    tokenizer = AutoTokenizer.from_pretrained(data_dir / "tokenizers" / "gpt2")
    task = build_task(cfg, corpus, tokenizer, "causal_lm", 1024, 0, tmp_path)
    assert len(task._arrays("test")["ids"]) == 287644
    assert len(task.calibration(4, 0)) == 4  # type: ignore[arg-type]


def test_a_real_tokenizer_and_real_sentences_make_a_task(data_dir: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(data_dir / "tokenizers" / "bert-base-uncased")
    cfg = config("sst2")
    task = build_task(cfg, load_corpus(cfg, str(data_dir)), tokenizer, "classification", 64, 0, tmp_path)
    text = tokenizer.decode(task.evaluation()[0]["input_ids"])
    assert text == "[CLS] it ' s a charming and often affecting journey. [SEP]"
    assert len(task.train()) == cfg.train_examples  # type: ignore[arg-type]


def test_causal_perplexity_is_that_of_the_networks_own_loss(data_dir: Path, tmp_path: Path) -> None:
    """Windows are of one length here, so the mean over tokens is the mean over windows that transformers gives."""
    import math

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = data_dir / "models" / "stories260K-llama"
    model = AutoModelForCausalLM.from_pretrained(folder)
    cfg = config("wikitext2_raw")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    task = build_task(cfg, load_corpus(cfg, str(data_dir)), tokenizer, "causal_lm", 64, 0, tmp_path)
    windows = task.collator([task.evaluation()[i] for i in range(2)])
    with torch.no_grad():
        loss = float(model(**windows).loss)
    assert task.evaluate(model, 1, "cpu")["perplexity"].value == pytest.approx(math.exp(loss), rel=1e-5)  # float32
