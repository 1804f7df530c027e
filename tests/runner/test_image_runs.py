"""Runs of images: methods on ViT, in integers too; killed and started again; a LayerNorm of patches that is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qexp.conf.errors import UserError
from qexp.conf.schema import ExperimentConfig
from qexp.results.schema import Record
from qexp.results.store import Store
from qexp.runner.compose import compose
from qexp.runner.experiment import run_experiment
from qexp.runner.identity import home_of
from qexp.runner.progress import SilentProgress
from qexp.runner.tracking import NullTracker

LAYERS = "model.dimensions.num_hidden_layers=2"
NORM = "model.patch_layer_norm=true"


def configure(results: Path, *overrides: str) -> ExperimentConfig:
    common = ["model=tiny_vit", "task=digits", "scale=smoke", "tracking=none", "threads=1", f"results_dir={results}"]
    sizes = ["model.dimensions.num_hidden_layers=1", "model.dimensions.hidden_size=16", "eval.heatmaps=false"]
    return compose([*common, *sizes, *overrides])


class DiesAt(SilentProgress):
    """Dies at a training step as a killed process would."""

    def __init__(self, step: int):
        self.step, self.phase = step, ""

    def start(self, phase: str, total: int | None) -> None:
        self.phase = phase

    def advance(self, done: int, total: int | None = None, note: str = "") -> None:
        if self.phase == "training" and done == self.step:
            raise RuntimeError("killed")


def run(cfg: ExperimentConfig, progress: SilentProgress | None = None) -> Record:
    return run_experiment(cfg, Store(Path(cfg.results_dir)), NullTracker(), progress or SilentProgress())


def test_a_gated_vit_is_trained_quantized_and_executed(tmp_path: Path) -> None:
    record = run(configure(tmp_path, "method=gated_attention", NORM, "eval.integer=true"))
    assert record.status == "finished" and set(record.metrics) == {"float", "w8a8", "w8a8.integer"}
    definition = record.metrics["float"]["accuracy"].definition
    assert "top-1" in definition and "scikit-learn's digits" in definition and "mean 0.306" in definition
    names = {product["name"] for product in record.integer["w8a8"]["certificate"]["products"]}
    assert {"embeddings.projection", "classifier", "layers.0.query", "layers.0.context"} <= names
    assert not record.integer["w8a8"]["certificate"]["in_float"]


@pytest.mark.parametrize("method", ["qat", "smoothquant", "kurtosis_qat", "quadapter", "outlier_int8", "adaround"])
def test_other_methods_run_on_vit(tmp_path: Path, method: str) -> None:
    record = run(configure(tmp_path, f"method={method}", "train.max_steps=1", "eval.outliers=false", LAYERS))
    assert record.status == "finished"


def test_killed_and_started_again_is_the_same_run(tmp_path: Path) -> None:
    """With images that are augmented anew in every epoch, and weights under the names that ViT has now."""
    sizes = ("task.train_examples=8", "train.max_steps=6", "train.save_steps=2", "task.augment.mixup=0.8", NORM)
    whole = run(configure(tmp_path / "whole", *sizes))
    broken = configure(tmp_path / "broken", *sizes)
    with pytest.raises(RuntimeError, match="killed"):
        run(broken, DiesAt(5))
    again = run(broken)
    assert again.training["resumed_from"] == 4
    assert again.metrics == whole.metrics and again.outliers == whole.outliers


def test_a_kept_network_has_its_layernorm_and_no_plain_load_takes_it(tmp_path: Path) -> None:
    cfg = configure(tmp_path, NORM)
    trained = run(cfg)
    home = home_of(cfg)
    assert json.loads((home / "config.json").read_text())["qexp_methods"] == ["patch_layer_norm"]
    again = run(configure(tmp_path, NORM, "eval.outlier_batches=1"))
    assert again.metrics == trained.metrics and again.cell_id != trained.cell_id
    with pytest.raises(UserError, match="patch_layer_norm"):
        run(compose([f"model={home}", "task=digits", "scale=smoke", "train=none", f"results_dir={tmp_path}"]))


def test_a_saved_vit_is_a_model_to_start_from(tmp_path: Path) -> None:
    cfg = configure(tmp_path)
    trained = run(cfg)
    start = [f"model={home_of(cfg)}", "task=digits", "scale=smoke", "train=none", f"results_dir={tmp_path}"]
    again = run(compose([*start, "tracking=none", "threads=1", "eval.heatmaps=false"]))
    assert again.metrics["float"]["accuracy"].value == trained.metrics["float"]["accuracy"].value
