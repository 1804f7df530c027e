"""Methods that quantize in training, from configuration to record: what is implied, resumed, shared and compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from qexp.conf.errors import UserError
from qexp.conf.schema import ExperimentConfig
from qexp.results.schema import Record
from qexp.results.store import Store
from qexp.runner.compose import compose
from qexp.runner.experiment import run_experiment
from qexp.runner.export import export_integer, load_exported
from qexp.runner.identity import training_id
from qexp.runner.progress import SilentProgress
from qexp.runner.tracking import NullTracker

Configure = Callable[..., ExperimentConfig]
METHODS = ("qat", "lsq", "quadapter", "kurtosis_qat")
BRIEF = ("train=pretrain_clm", "train.max_steps=4", "train.save_steps=2", "eval.ood=false", "eval.outliers=false")


class Phases(SilentProgress):
    """Remembers the phases of a run, and dies at a given training step as a killed process would."""

    def __init__(self, die_at: int | None = None):
        self.names: list[str] = []
        self.die_at = die_at

    def start(self, phase: str, total: int | None) -> None:
        self.names.append(phase)

    def advance(self, done: int, total: int | None = None, note: str = "") -> None:
        if self.names[-1] == "training" and done == self.die_at:
            raise RuntimeError("killed")


def run(cfg: ExperimentConfig, phases: Phases | None = None) -> Record:
    return run_experiment(cfg, Store(Path(cfg.results_dir)), NullTracker(), phases or Phases())


@pytest.fixture
def brief(configure: Configure) -> Configure:
    return lambda *overrides: configure("model=tiny_gpt2", *BRIEF, *overrides)


@pytest.mark.parametrize("method", METHODS)
def test_killed_and_started_again_is_the_same_run(brief: Configure, tmp_path: Path, method: str) -> None:
    whole = run(brief(f"method={method}", f"results_dir={tmp_path / 'whole'}"))
    broken = brief(f"method={method}", f"results_dir={tmp_path / 'broken'}")
    with pytest.raises(RuntimeError, match="killed"):
        run(broken, Phases(die_at=3))
    phases = Phases()
    again = run(broken, phases)
    assert again.metrics == whole.metrics and again.training["resumed_from"] == 2
    assert f"calibrating {method}" not in phases.names


@pytest.mark.parametrize("method", METHODS)
def test_other_bits_share_the_trained_network_and_other_ranges_do_not(brief: Configure, method: str) -> None:
    choice = (f"method={method}", "method.bits=w8a8")
    first, phases = run(brief(*choice)), Phases()
    second = run(brief(*choice, "quant.bits=[w4a8,w8a8]"), phases)
    assert "training" not in phases.names
    assert second.metrics["w8a8"] == first.metrics["w8a8"] and second.metrics["float"] == first.metrics["float"]
    other = training_id(brief(*choice, "quant.activations.momentum=0.5"))
    assert other != training_id(brief(*choice))
    assert training_id(brief("quant.activations.momentum=0.5")) == training_id(brief())


def test_a_wrong_step_is_for_evaluation_only(brief: Configure, tmp_path: Path) -> None:
    wrong = run(brief("method=lsq", "quant.weight_step_ratio=0.5", f"results_dir={tmp_path / 'a'}"))
    phases = Phases()
    right = run(brief("method=lsq", f"results_dir={tmp_path / 'a'}"), phases)
    assert "training" not in phases.names
    assert right.metrics == run(brief("method=lsq", f"results_dir={tmp_path / 'b'}")).metrics
    assert wrong.metrics["float"] == right.metrics["float"] and wrong.metrics["w8a8"] != right.metrics["w8a8"]


def test_kurtosis_before_training_is_kept_for_whoever_shares_the_network(brief: Configure) -> None:
    choice = ("method=kurtosis_qat", "method.bits=w8a8", "eval.outliers=true")
    first, phases = run(brief(*choice)), Phases()
    second = run(brief(*choice, "quant.bits=[w4a8]"), phases)
    assert "training" not in phases.names
    assert second.analysis["kurtosis_qat"] == first.analysis["kurtosis_qat"]
    assert first.analysis["kurtosis_qat"]["tensors"]


def test_quadapter_stands_beside_plain_quantization_and_runs_in_integers(brief: Configure) -> None:
    record = run(brief("method=quadapter"))
    plain = run(brief("method=vanilla", "train.max_steps=0", "quant=products"))
    assert set(record.metrics) == {"float", "w8a8", "w8a8.ptq", "w8a8.integer"}
    # Its weights are those of the network as it was loaded.
    assert record.metrics["float"] == plain.metrics["float"]
    assert record.metrics["w8a8.ptq"] == plain.metrics["w8a8"]
    assert record.training["before"]["quadapter"]["block_errors"]


def test_an_exported_quadapter_is_the_one_that_was_evaluated(brief: Configure, tmp_path: Path) -> None:
    cfg = brief("method=quadapter")
    record = run(cfg)
    export_integer(cfg, "w8a8", tmp_path / "exported", Phases())
    loaded = load_exported(tmp_path / "exported")
    assert record.integer["w8a8"]["certificate"]["products"]
    assert not [name for name in loaded.module.state_dict() if "trained_" in name or "log_scales" in name]


def test_a_method_s_yaml_implies_values_and_the_user_wins() -> None:
    implied = compose(["method=quadapter", "model=tiny_gpt2", "task=wikitext2"])
    assert (implied.train.name, implied.quant.name, implied.eval.integer) == ("quadapter", "products", True)
    assert [other.name for other in implied.ood] == ["ptb", "books"]
    chosen = compose(
        ["method=quadapter", "model=tiny_gpt2", "task=wikitext2", "train=none", "quant=w8a8", "eval.integer=false"]
    )
    assert (chosen.train.name, chosen.quant.name, chosen.eval.integer) == ("none", "w8a8", False)


def test_the_bits_of_training_are_the_first_evaluated_ones_unless_named() -> None:
    assert compose(["method=qat", "quant.bits=[w4a8,w8a8]"]).method[0].settings["bits"] == "w4a8"
    assert compose(["method=qat", "quant.bits=[w4a8]", "method.bits=w6a6"]).method[0].settings["bits"] == "w6a6"
    with pytest.raises(UserError, match=r"choose method.bits=w8a8, or quant.bits=\[w8a8\]"):
        compose(["method=qat", "quant=none"])
