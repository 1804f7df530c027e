"""Methods with an arithmetic of their own: trained, certified, resumed, executed and analysed within a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from qexp.conf.errors import RunError, UserError
from qexp.conf.schema import ExperimentConfig, MethodChoice
from qexp.results.schema import Record
from qexp.results.store import Store
from qexp.runner.experiment import run_experiment
from qexp.runner.identity import cell_id, training_id
from qexp.runner.progress import SilentProgress
from qexp.runner.rerun import baseline_of
from qexp.runner.tracking import NullTracker

Configure = Callable[..., ExperimentConfig]
METHOD = ("method=outlier_int8", "method.gamma=1", "quant=none")


class Phases(SilentProgress):
    def __init__(self, die_at: int | None = None):
        self.names: list[str] = []
        self.die_at = die_at

    def start(self, phase: str, total: int | None = None) -> None:
        self.names.append(phase)

    def advance(self, done: int, total: int | None = None, note: str = "") -> None:
        if self.names[-1] == "training" and done == self.die_at:
            raise RuntimeError("killed")


def run(cfg: ExperimentConfig, phases: Phases | None = None) -> Record:
    return run_experiment(cfg, Store(Path(cfg.results_dir)), NullTracker(), phases or Phases())


def test_a_record_has_both_arithmetics_the_certificates_and_the_analysis(configure: Configure) -> None:
    record = run(configure(*METHOD, "eval.heatmaps=true"))
    assert list(record.metrics) == ["float", "method.integer"]
    assert record.metrics["float"] != record.metrics["method.integer"]
    step = record.training["certificates"]["outlier_int8"]
    assert {product["kind"] for product in step["products"]} == {"forward", "backward"}
    executed = record.integer["method"]["certificate"]["products"]
    assert {product["name"] for product in executed} == {product["name"] for product in step["products"]}
    assert len(record.analysis["outlier_int8"]["layers"]) == len(executed)
    assert record.artifacts["outlier_int8"].endswith("outlier_int8.png")
    assert Store(Path(record.config["results_dir"])).load(record.cell_id) == record


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_killed_and_started_again_is_the_same_run(configure: Configure, tmp_path: Path, rounding: str) -> None:
    overrides = (*METHOD, f"method.forward_rounding={rounding}", "train.gradient_accumulation=2")
    whole = run(configure(*overrides, f"results_dir={tmp_path / 'whole'}"))
    broken = configure(*overrides, f"results_dir={tmp_path / 'broken'}")
    with pytest.raises(RuntimeError, match="killed"):
        run(broken, Phases(die_at=3))
    again = run(broken)
    assert again.training["resumed_from"] == 2
    assert again.metrics == whole.metrics and again.training["curve"] == whole.training["curve"]


def test_a_kept_network_is_loaded_in_float_and_gives_the_same_figures(configure: Configure) -> None:
    first, phases = run(configure(*METHOD)), Phases()
    second = run(configure(*METHOD, "quant=w8a8"), phases)
    assert "training" not in phases.names
    assert {name: second.metrics[name] for name in first.metrics} == first.metrics


def test_what_acts_only_in_evaluation_shares_the_baselines_network(configure: Configure) -> None:
    baseline, phases = run(configure("quant=none")), Phases()
    for bits in (4, 8):
        cfg = configure(*METHOD, "method.train=false", f"method.activation_bits={bits}")
        record = run(cfg, phases)
        assert training_id(cfg) == training_id(configure())
        assert record.metrics["float"] == baseline.metrics["float"]
        assert record.training == baseline.training
    assert "training" not in phases.names


def test_the_baseline_of_a_record(configure: Configure) -> None:
    cfg = configure(*METHOD)
    baseline = baseline_of(run(cfg).config)
    assert baseline is not None and cell_id(baseline) == cell_id(configure("quant=none"))
    assert baseline_of(run(configure("quant=none")).config) is None


def test_what_is_not_finite_ends_as_diverged_and_names_the_layer(configure: Configure) -> None:
    record = run(configure(*METHOD, "train.learning_rate=1e25", "train.max_grad_norm=0", "train.max_steps=20"))
    assert record.status == "diverged"
    assert "after step" in record.message and record.training["steps"] < 20


@pytest.mark.parametrize("model", ["tiny_gpt2", "tiny_opt", "tiny_llama"])
@pytest.mark.parametrize("mode", ["int8", "tiled_int12", "int12_outliers"])
def test_every_family_trains_in_integers(configure: Configure, model: str, mode: str) -> None:
    record = run(configure(*METHOD, f"model={model}", f"method.mode={mode}", "train.max_steps=2"))
    assert record.status == "finished" and record.training["replaced"]


def test_two_arithmetics_at_once_are_refused(configure: Configure) -> None:
    with pytest.raises(UserError, match="outlier_int8 and llm_int8 each compute the network in their own way"):
        run(configure("method=[outlier_int8,llm_int8]", "quant=none", "train.max_steps=2"))


def test_a_claim_that_does_not_hold_ends_the_run(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    from qexp.models.fixed_point import ForwardProduct

    def in_floats(self: ForwardProduct, x, weight, bias):  # type: ignore[no-untyped-def]
        y, kept = before(self, x, weight, bias)
        return y + 0 * (x @ weight.t()), kept

    before = ForwardProduct.forward
    monkeypatch.setattr(ForwardProduct, "forward", in_floats)
    with pytest.raises(RunError, match="is claimed in integers, but aten::mm multiplied floats in its forward"):
        run(configure(*METHOD))


def test_a_setting_that_came_later_is_part_of_the_identity_only_where_it_is_used(configure: Configure) -> None:
    cfg = configure(*METHOD)
    (choice,) = cfg.method
    earlier = {key: value for key, value in choice.settings.items() if key not in ("layernorm", "embedding")}
    assert cell_id(replace(cfg, method=(MethodChoice(choice.name, earlier),))) == cell_id(cfg)
    assert cell_id(configure(*METHOD, "method.layernorm=true")) != cell_id(cfg)
