"""Scales while a network is trained: they change nothing of it, and survive a kill and a loss that diverges."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qexp.conf.schema import ExperimentConfig
from qexp.results.schema import Record
from qexp.results.store import Store
from qexp.runner.experiment import run_experiment
from qexp.runner.identity import cell_id, home_of, training_id
from qexp.runner.progress import SilentProgress
from qexp.runner.scale_recorder import scale_curves
from qexp.runner.tracking import NullTracker

Configure = Callable[..., ExperimentConfig]


class Dies(SilentProgress):
    """Dies at the third training step as a killed process would."""

    def start(self, phase: str, total: int | None) -> None:
        self.phase = phase

    def advance(self, done: int, total: int | None = None, note: str = "") -> None:
        if self.phase == "training" and done == 3:
            raise RuntimeError("killed")


def run(cfg: ExperimentConfig, progress: SilentProgress | None = None) -> Record:
    return run_experiment(cfg, Store(Path(cfg.results_dir)), NullTracker(), progress or SilentProgress())


def weights(cfg: ExperimentConfig) -> dict[str, torch.Tensor]:
    return load_file(home_of(cfg) / "model.safetensors")


@pytest.fixture
def brief(configure: Configure) -> Configure:
    small = ("train.max_steps=4", "task.eval_examples=4", "eval.outliers=false", "quant=none")
    return lambda *overrides: configure("model=tiny_gpt2", *small, *overrides)


def test_at_its_default_the_key_is_no_part_of_an_identity(brief: Configure) -> None:
    assert cell_id(brief("train.scales_every=null")) == cell_id(brief())
    assert training_id(brief("train.scales_every=2")) != training_id(brief())


def test_it_changes_nothing_and_a_resumed_run_has_every_point(brief: Configure, tmp_path: Path) -> None:
    """In FP16, where every operation that torch dispatches is rounded and counted, and with steps of two passes."""
    choice = ("train.precision=fp16", "train.gradient_accumulation=2")
    plain, measured = brief(*choice), brief(*choice, "train.scales_every=2", "eval.heatmaps=true")
    broken = brief(*choice, "train.scales_every=2", f"results_dir={tmp_path / 'broken'}")
    without, whole = run(plain).training, run(measured)
    with pytest.raises(RuntimeError, match="killed"):
        run(broken, Dies())
    again, scales = run(broken).training, whole.training["scales"]
    assert all(torch.equal(value, weights(measured)[name]) for name, value in weights(plain).items())
    assert all(whole.training[key] == without[key] for key in ("curve", "precision")) and without["scales"] == {}
    assert again["scales"] == scales and again["resumed_from"] == 2
    assert scales["steps"] == [0, 2, 3]
    assert scales["tensors"]["h.0.mlp.c_fc"].keys() == {
        *("weight", "activation", "gradient", "weight_gradient", "bias_gradient")
    }
    assert all(len(stds) == 3 for kinds in scales["tensors"].values() for stds in kinds.values())
    assert Path(measured.results_dir, "adhoc", whole.artifacts["scales"]).is_file()


def test_a_diverged_run_keeps_those_of_the_steps_before(brief: Configure) -> None:
    record = run(brief("train.scales_every=1", "train.learning_rate=1e20", "train.max_grad_norm=0"))
    assert record.status == "diverged"
    assert record.training["scales"]["steps"] == list(range(record.training["steps"] + 1))


def test_a_tensor_that_some_steps_lack_has_none_there() -> None:
    log = [
        {"step": 0, "scales": {"a": {"weight": 1.0}, "b": {}}},
        {"step": 3, "loss": 2.0},
        {"step": 4, "scales": {"a": {"weight": 2.0, "gradient": 0.5}}},
    ]
    found = scale_curves(log)
    assert found["steps"] == [0, 4] and found["tensors"] == {"a": {"weight": [1.0, 2.0], "gradient": [None, 0.5]}}
    assert found["in_band"] == {"first": 1.0, "last": 1.0}
    assert scale_curves(log[1:2]) == {}


def test_the_share_in_the_band_counts_every_tensor_once_with_both_bounds_inside() -> None:
    first = {"a": {"weight": 0.1, "activation": 0.099, "gradient": None}, "b": {"activation": 10.0, "gradient": 0.0}}
    found = scale_curves([{"step": 0, "scales": first}, {"step": 1, "scales": {"a": {"weight": float("nan")}}}])
    assert found["in_band"] == {"first": 0.5, "last": 0.0}
