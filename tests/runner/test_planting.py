"""Planted outliers within a run: how they are asked for, what they are of a record, and that they go in once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from qexp.conf.errors import UserError
from qexp.conf.schema import ExperimentConfig, PlantConfig
from qexp.results.schema import Record
from qexp.results.store import Store
from qexp.runner.compose import compose, compose_dict
from qexp.runner.experiment import run_experiment
from qexp.runner.identity import cell_id, training_id
from qexp.runner.progress import SilentProgress
from qexp.runner.rerun import config_of, overrides_for
from qexp.runner.tracking import NullTracker

Configure = Callable[..., ExperimentConfig]
PLANTED = ("model=tiny_gpt2", "model.plant_outliers.channels=4", "model.plant_outliers.factor=64")


def run(cfg: ExperimentConfig) -> Record:
    return run_experiment(cfg, Store(Path(cfg.results_dir)), NullTracker(), SilentProgress())


def test_the_float_figure_stays_and_the_quantized_one_does_not(configure: Configure) -> None:
    planted = run(configure(*PLANTED, "train.max_steps=0"))
    plain = run(configure("model=tiny_gpt2", "train.max_steps=0"))
    assert planted.metrics["float"] == plain.metrics["float"]
    assert planted.metrics["w8a8"] != plain.metrics["w8a8"]
    assert planted.outliers["summary"]["avg_kurtosis"] > 2 * plain.outliers["summary"]["avg_kurtosis"]
    assert planted.config["model"]["plant_outliers"] == {"channels": 4, "factor": 64.0, "roles": None, "seed": 0}


def test_a_network_trained_with_them_is_loaded_without_planting_again(configure: Configure) -> None:
    first = run(configure(*PLANTED))
    again = run(configure(*PLANTED, "quant.bits=[w8a8,w6a6]"))
    assert again.provenance["training_id"] == first.provenance["training_id"]
    assert {name: again.metrics[name] for name in first.metrics} == first.metrics


def test_nothing_planted_is_no_part_of_the_identity() -> None:
    plain, planted = compose(["model=tiny_gpt2"]), compose(PLANTED)
    assert planted.model.plant_outliers == PlantConfig(channels=4, factor=64.0)
    assert cell_id(plain) != cell_id(planted) and training_id(plain) != training_id(planted)
    assert cell_id(replace(planted, model=replace(planted.model, plant_outliers=None))) == cell_id(plain)
    earlier = compose_dict(["model=tiny_gpt2"])
    del earlier["model"]["plant_outliers"]
    assert cell_id(config_of(earlier)) == cell_id(plain)


def test_a_record_gives_back_its_overrides() -> None:
    asked = [*PLANTED, "model.plant_outliers.roles=[ffn_norm]", "model.plant_outliers.seed=3"]
    config = compose_dict(asked)
    assert compose_dict(overrides_for(config)) == config
    whole = compose(["model=tiny_gpt2", "model.plant_outliers={channels:4,factor:64,roles:ffn_norm,seed:3}"])
    assert asdict(whole) == asdict(compose(asked))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.plant_outliers.factor=1", "model.plant_outliers.factor=1: expected greater than 1"),
        ("model.plant_outliers.channels=0", "model.plant_outliers.channels=0: expected greater than or equal to 1"),
        ("model.plant_outliers.channel=1", "unknown key .*channel; did you mean model.plant_outliers.channels"),
        ("model.plant_outliers.roles=[norm]", "model.plant_outliers.roles.*expected 'attention_norm'"),
        ("model.plant_outliers=4", "model.plant_outliers=4: expected settings"),
        ("~model.plant_outliers.factor", "model.plant_outliers.factor must be given"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose([*PLANTED, override])


def test_smoothing_gives_back_what_planting_takes_in_integers_too(configure: Configure) -> None:
    options = ("quant=products", "quant.bits=[w8a8]", "train.max_steps=0")
    worse = PLANTED[:2] + ("model.plant_outliers.factor=4096",)
    plain, planted = run(configure("model=tiny_gpt2", *options)), run(configure(*worse, *options))
    cfg = configure(*worse, *options, "method=smoothquant", "eval.integer=true")
    assert training_id(cfg) == training_id(configure(*worse, *options))
    smoothed = run(cfg)
    assert smoothed.metrics["float"] == planted.metrics["float"]
    assert smoothed.metrics["w8a8.ptq"] == planted.metrics["w8a8"]
    target, *lost = (record.metrics["w8a8"]["perplexity"].value for record in (plain, smoothed, planted))
    float_value = plain.metrics["float"]["perplexity"].value
    assert abs(lost[0] - float_value) < 0.1 * abs(lost[1] - float_value), target
    assert smoothed.integer["w8a8"]["certificate"]["products"]
    assert abs(smoothed.integer["w8a8"]["gap"]["metric"]) < 1e-2 * target
