"""Training from scratch before the run proper: what is asked for, its part in the identity, where the run starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qexp.conf.errors import UserError
from qexp.conf.schema import ExperimentConfig
from qexp.results.schema import Record
from qexp.results.select import model_label
from qexp.results.store import Store
from qexp.runner.compose import compose, compose_dict
from qexp.runner.experiment import run_experiment
from qexp.runner.identity import cell_id, home_of, training_id
from qexp.runner.pretraining import pretraining_run
from qexp.runner.progress import SilentProgress
from qexp.runner.rerun import config_of, overrides_for
from qexp.runner.tracking import NullTracker

Configure = Callable[..., ExperimentConfig]
ASKED = ("model=tiny_gpt2", "model.pretrain.task=books", "model.pretrain.max_steps=3")


def run(cfg: ExperimentConfig) -> Record:
    return run_experiment(cfg, Store(Path(cfg.results_dir)), NullTracker(), SilentProgress())


@pytest.fixture
def pretrained(configure: Configure, text_folder: Path) -> Callable[..., ExperimentConfig]:
    """A run that goes on from three steps on the small text, with the same text's other order of words."""

    def make(*overrides: str) -> ExperimentConfig:
        return configure(*ASKED, f"model.pretrain.task={text_folder}", *overrides)

    return make


def test_what_is_asked_for_is_settled_at_the_scale_of_the_run() -> None:
    config = compose([*ASKED, "task=wikitext2", "scale=smoke"])
    assert config.pretraining is not None
    assert (config.pretraining.task.name, config.pretraining.task.objective) == ("books", "causal_lm")
    assert (config.pretraining.train.name, config.pretraining.train.max_steps) == ("pretrain_clm", 3)
    assert config.train.name == "continue_clm"
    by_itself = compose(["model=tiny_gpt2", "task=books", "train.max_steps=3", "scale=smoke"])
    assert training_id(pretraining_run(config)) == training_id(by_itself)


def test_the_pretraining_is_part_of_the_identity_and_its_absence_is_not() -> None:
    asked, longer = compose(ASKED), compose([*ASKED, "model.pretrain.max_steps=4"])
    plain = compose(["model=tiny_gpt2", "train=continue_clm"])
    assert len({cell_id(asked), cell_id(longer), cell_id(plain)}) == 3
    assert len({training_id(asked), training_id(longer), training_id(plain)}) == 3
    earlier = compose_dict(["model=tiny_gpt2", "train=continue_clm"])
    del earlier["model"]["pretrain"], earlier["pretraining"]
    assert cell_id(config_of(earlier)) == cell_id(plain)


def test_a_record_gives_back_its_overrides_and_names_its_network() -> None:
    config = compose_dict([*ASKED, "method=quadapter", "task=wikitext2"])
    assert compose_dict(overrides_for(config)) == config
    assert cell_id(config_of(config)) == cell_id(compose([*ASKED, "method=quadapter", "task=wikitext2"]))
    assert model_label(config["model"]) == "tiny_gpt2 (from books)"


def test_untrained_the_run_has_the_pretrained_networks_own_weights(configure: Configure, pretrained: Configure) -> None:
    config = pretrained("train=none", "train.max_steps=0")
    record = run(config)
    folder = home_of(pretraining_run(config))
    loaded = run(configure(f"model={folder}", "task.objective=causal_lm", "train=none", "train.max_steps=0"))
    facts = record.training["pretraining"]
    assert facts["steps"] == 3 and facts["training_id"] == folder.name
    assert record.metrics == loaded.metrics


def test_runs_share_it_and_who_trained_it_makes_no_difference(pretrained: Configure, tmp_path: Path) -> None:
    first, second = pretrained("train=continue_clm"), pretrained("method=qat", "train=continue_clm")
    run(first)
    kept = home_of(pretraining_run(first)) / "model.safetensors"
    written = kept.stat().st_mtime_ns
    shared = run(second)
    alone = run(replace(second, results_dir=str(tmp_path / "elsewhere")))
    assert kept.stat().st_mtime_ns == written
    assert shared.metrics == alone.metrics
    before, after = load_file(kept), load_file(home_of(first) / "model.safetensors")
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_outliers_are_planted_in_the_trained_network(pretrained: Configure) -> None:
    plain = run(pretrained("train=none", "train.max_steps=0"))
    planting = ("model.plant_outliers.channels=4", "model.plant_outliers.factor=64")
    planted = run(pretrained("train=none", "train.max_steps=0", *planting))
    assert planted.metrics["float"] == plain.metrics["float"]
    assert planted.metrics["w8a8"] != plain.metrics["w8a8"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=minilm"], "model.pretrain trains a model from scratch, and model=minilm comes trained"),
        (["model.pretrain.task=sst2"], "model.pretrain.task=sst2 has labels; name running text"),
        (["model.pretrain.task=boks"], "model.pretrain: unknown task 'boks'; did you mean books"),
        (["model.pretrain.train=pretrain"], "model.pretrain: unknown train 'pretrain'"),
        (["model.pretrain.train=none", "~model.pretrain.max_steps"], "model.pretrain.train=none trains nothing"),
        (["model.pretrain.max_steps=0"], "model.pretrain.max_steps=0: expected greater than or equal to 1"),
        (["pretraining.train.max_steps=3"], "unknown key pretraining"),
    ],
)
def test_what_cannot_be_pretrained_is_refused_in_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose([*ASKED, *overrides])
