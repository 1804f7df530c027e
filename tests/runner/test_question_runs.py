"""Whole runs of question answering: learnt by heart, quantized, executed; what composes and what does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qexp.conf.errors import UserError
from qexp.conf.schema import ExperimentConfig
from qexp.results.schema import Record
from qexp.results.store import Store
from qexp.runner.compose import compose
from qexp.runner.experiment import run_experiment
from qexp.runner.progress import SilentProgress
from qexp.runner.tracking import NullTracker

VILLAGES = {"Orlen": "Ebro", "Brask": "Lune", "Sund": "Tamar", "Maro": "Isar", "Kesh": "Oder"}


def rows() -> list[dict[str, Any]]:
    """Which river, when founded, and for two villages how many live there, which no context tells."""
    made = []
    for number, (village, river) in enumerate(VILLAGES.items()):
        year = str(1503 + 71 * number)
        context = f"{village} lies on the river {river}. It was founded in {year} by fishermen, who built huts."
        asked = {f"On which river does {village} lie?": river, f"When was {village} founded?": year}
        asked |= {f"How many people live in {village}?": None} if number < 2 else {}
        for question, answer in asked.items():
            texts = [answer] if answer else []
            answers = {"text": texts, "answer_start": [context.index(text) for text in texts]}
            made.append({"context": context, "question": question, "answers": answers})
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    text = "\n".join(map(json.dumps, rows()))
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return tmp_path


def run(folder: Path, *overrides: str) -> Record:
    common = ["task=squad_v2", f"task.folder={folder}", "scale=smoke", "tracking=none", "threads=1"]
    places = [f"results_dir={folder / 'runs'}", "eval.heatmaps=false", "eval.outliers=false"]
    cfg = compose([*common, *places, *overrides])
    return run_experiment(cfg, Store(Path(cfg.results_dir)), NullTracker(), SilentProgress())


def test_answers_are_learnt_by_heart_and_survive_int8(folder: Path) -> None:
    training = ["train.max_steps=200", "train.batch_size=12", "train.learning_rate=1e-3", "train.save_steps=250"]
    record = run(folder, "model=tiny_bert", *training, "task.max_length=64", "eval.integer=true")
    assert set(record.metrics) == {"float", "w8a8", "w8a8.integer"}
    for setting in record.metrics.values():
        assert list(setting) == ["f1", "exact_match"]
        assert setting["exact_match"].value >= 11 / 12 and setting["f1"].n == 12
    executed = record.integer["w8a8"]
    assert executed["certificate"]["products"] and executed["gap"]["argmax_agreement"] > 0.9
    assert [layer["name"] for layer in executed["certificate"]["in_float"]] == ["qa_outputs"]


@pytest.mark.pretrained
def test_a_pretrained_encoder_gets_the_head(folder: Path) -> None:
    record = run(folder, "model=minilm", "train.max_steps=1", "train.freeze=[embeddings]", "quant=none")
    assert record.status == "finished" and record.config["train"]["name"] == "finetune"


@pytest.mark.parametrize("scale", ["smoke", "paper"])
@pytest.mark.parametrize("model", ["bert_base", "ernie", "roberta-base", "minilm"])
def test_it_composes_on_every_encoder(model: str, scale: str) -> None:
    cfg: ExperimentConfig = compose([f"model={model}", "task=squad", f"scale={scale}"])
    assert (cfg.task.objective, cfg.train.name) == ("question_answering", "finetune")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task.objective=masked_lm"], "task.objective=masked_lm is not possible with task=squad_v2; use question_an"),
        (["model=tiny_gpt2"], "gpt2 models find no answers"),
        (["task.max_length=8", "task.overlap=6"], "task.max_length=8 leaves no room for a question"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(folder: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(folder, "model=tiny_bert", "train.max_steps=1", *overrides)
