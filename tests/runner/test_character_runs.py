"""Character models in whole runs: killed and started again, and under the methods that fit them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from qexp.conf.errors import UserError
from qexp.conf.schema import ExperimentConfig
from qexp.results.schema import Record
from qexp.results.store import Store
from qexp.runner.experiment import run_experiment
from qexp.runner.progress import SilentProgress
from qexp.runner.tracking import NullTracker

Configure = Callable[..., ExperimentConfig]
LONG = ("task.max_length=2000", "task.train_examples=null", "eval.outliers=false", "quant=none")
"""Four steps an epoch, whose windows are drawn anew."""


class Dying(SilentProgress):
    """Dies at a given training step as a killed process would."""

    def __init__(self, at: int):
        self.at, self.phase = at, ""

    def start(self, phase: str, total: int | None) -> None:
        self.phase = phase

    def advance(self, done: int, total: int | None = None, note: str = "") -> None:
        if self.phase == "training" and done == self.at:
            raise RuntimeError("killed")


def run(cfg: ExperimentConfig, progress: SilentProgress | None = None) -> Record:
    return run_experiment(cfg, Store(Path(cfg.results_dir)), NullTracker(), progress or SilentProgress())


@pytest.fixture
def chars(configure: Configure) -> Configure:
    return lambda mixer, *overrides: configure("task=wikitext2_chars", f"model=charlm_{mixer}", *overrides)


def test_killed_in_its_second_epoch_and_started_again_is_the_same_run(chars: Configure, tmp_path: Path) -> None:
    whole = run(chars("conv", *LONG, f"results_dir={tmp_path / 'whole'}"))
    broken = chars("conv", *LONG, f"results_dir={tmp_path / 'broken'}")
    with pytest.raises(RuntimeError, match="killed"):
        run(broken, Dying(at=6))
    again = run(broken)
    assert again.metrics == whole.metrics and again.training["resumed_from"] == 4
    assert again.training["curve"] == whole.training["curve"]


@pytest.mark.parametrize("mixer", ["attention", "conv", "rnn"])
def test_a_run_measures_bits_per_character_in_every_setting(chars: Configure, mixer: str) -> None:
    record = run(chars(mixer, "train.max_steps=2", "eval.integer=true"))
    assert list(record.metrics) == ["float", "w8a8", "w8a8.integer"]
    assert all(0 < found["bits_per_character"].value < 20 for found in record.metrics.values())
    products = {product["kind"] for product in record.integer["w8a8"]["certificate"]["products"]}
    attention = {"attention_scores", "attention_context"} if mixer == "attention" else set()
    assert products == {"linear"} | attention


@pytest.mark.parametrize("method", ["clipped_softmax", "gated_attention", "qat", "smoothquant", "adaround"])
def test_methods_act_on_character_models_or_say_that_they_cannot(chars: Configure, method: str) -> None:
    record = run(chars("attention", "train.max_steps=2", f"method={method}"))
    assert record.status == "finished"
    conv = chars("conv", "train.max_steps=2", f"method={method}")
    if method in ("clipped_softmax", "gated_attention"):
        with pytest.raises(UserError, match="found nothing to change in a charlm model"):
            run(conv)
    else:
        assert run(conv).status == "finished"


def test_an_ordinary_decoder_learns_characters_too(chars: Configure, configure: Configure) -> None:
    record = run(configure("task=wikitext2_chars", "model=tiny_gpt2", "train.max_steps=2"))
    assert record.config["model"]["tokenizer"] == "characters"
    assert list(record.metrics["float"]) == ["bits_per_character"]
