"""From configuration to record: what is done once, what is shared, what is bit for bit the same after a kill."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from qexp.conf.errors import RunError, UserError
from qexp.conf.schema import ExperimentConfig
from qexp.methods.base import BaseMethod
from qexp.results import outcomes
from qexp.results.schema import Record
from qexp.results.store import Store
from qexp.runner.experiment import run_experiment
from qexp.runner.progress import SilentProgress
from qexp.runner.tracking import NullTracker

Configure = Callable[..., ExperimentConfig]


class Phases(SilentProgress):
    """Remembers the phases of a run, and dies at a given training step as a killed process would."""

    def __init__(self, die_at: int | None = None):
        self.names: list[str] = []
        self.messages: list[str] = []
        self.die_at = die_at

    def start(self, phase: str, total: int | None) -> None:
        self.names.append(phase)

    def advance(self, done: int, total: int | None = None, note: str = "") -> None:
        if self.names[-1] == "training" and done == self.die_at:
            raise RuntimeError("killed")

    def message(self, text: str) -> None:
        self.messages.append(text)


def run(cfg: ExperimentConfig, phases: Phases | None = None) -> Record:
    return run_experiment(cfg, Store(Path(cfg.results_dir)), NullTracker(), phases or Phases())


def test_record_holds_every_setting_and_how_it_came_about(configure: Configure) -> None:
    cfg = configure("quant=low_bits")
    record = run(cfg)
    assert record.status == "finished"
    assert set(record.metrics) == {"float", *cfg.quant.bits}
    assert all(by_name["perplexity"].value > 1 for by_name in record.metrics.values())
    assert record.metrics["float"]["perplexity"].definition
    assert record.training["steps"] == 6
    assert {"max_inf_norm", "avg_kurtosis"} <= set(record.outliers["summary"])
    assert record.provenance["data_fingerprint"]
    kept = Store(Path(cfg.results_dir)).load(record.cell_id)
    assert kept == record
    for setting, by_name in kept.metrics.items():
        windows = outcomes.read(kept, setting, "perplexity")
        assert windows is not None and windows.kind == "loss", setting
        assert windows.references.sum() == by_name["perplexity"].n
        mean = windows.values.astype(float).sum() / windows.references.sum()
        assert math.exp(mean) == pytest.approx(by_name["perplexity"].value, rel=1e-5)  # kept in float32


def test_a_finished_cell_is_not_run_again(configure: Configure) -> None:
    first, phases = run(configure()), Phases()
    assert run(configure(), phases) == first
    assert phases.names == []


def test_a_finished_cell_is_filed_under_another_table_too(configure: Configure) -> None:
    first, phases = run(configure()), Phases()
    second = run(configure("table=other"), phases)
    assert phases.names == []
    assert second.metrics == first.metrics
    store = Store(Path(configure().results_dir))
    assert store.path("other", first.cell_id).is_file() and store.path("adhoc", first.cell_id).is_file()
    assert run(configure()) == first
    assert run(configure("table=other")) == second


def test_settings_that_act_after_training_share_one_trained_network(configure: Configure) -> None:
    first, phases = run(configure()), Phases()
    second = run(configure("quant=per_channel"), phases)
    assert "training" not in phases.names
    assert second.cell_id != first.cell_id
    assert second.metrics["float"] == first.metrics["float"]
    assert second.training == first.training


@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_killed_and_started_again_is_the_same_run(configure: Configure, tmp_path: Path, step: int) -> None:
    whole = run(configure(f"results_dir={tmp_path / 'whole'}"))
    broken = configure(f"results_dir={tmp_path / 'broken'}")
    with pytest.raises(RuntimeError, match="killed"):
        run(broken, Phases(die_at=step))
    again = run(broken)
    assert again.metrics == whole.metrics
    assert again.training["resumed_from"] == ((step - 1) // 2 * 2 or None)


@pytest.mark.parametrize("model", ["tiny_bert", "tiny_opt"])
def test_accumulated_batches_are_one_batch(configure: Configure, model: str) -> None:
    """But for BERT's masked tokens, of which parts have more or fewer: its loss is the mean of the parts' means."""
    given = (f"model={model}", "train.dropout=0", "train.ffn_output_penalty=0.5", "train.logging_steps=1")
    whole = run(configure(*given, "train.batch_size=4")).training["curve"]
    parts = run(configure(*given, "train.batch_size=2", "train.gradient_accumulation=2")).training["curve"]
    for key in ("loss", "grad_norm"):
        assert [step[key] for step in parts] == pytest.approx([step[key] for step in whole], rel=0.2), key


def test_gradient_accumulation_resumes_too(configure: Configure, tmp_path: Path) -> None:
    overrides = ("train.gradient_accumulation=2", "train.ffn_output_penalty=0.5", "method=gated_attention")
    whole = run(configure(*overrides, f"results_dir={tmp_path / 'whole'}"))
    broken = configure(*overrides, f"results_dir={tmp_path / 'broken'}")
    with pytest.raises(RuntimeError, match="killed"):
        run(broken, Phases(die_at=3))
    assert run(broken).metrics == whole.metrics


def test_a_corrupt_trained_network_is_set_aside_and_trained_again(configure: Configure) -> None:
    cfg = configure()
    first = run(cfg)
    (weights,) = Path(cfg.results_dir).glob("trained/*/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:100])
    phases = Phases()
    second = run(configure("quant=per_channel"), phases)
    assert "training" in phases.names
    assert any("set aside" in message for message in phases.messages)
    assert second.metrics["float"] == first.metrics["float"]


def test_diverging_loss_ends_in_a_record_that_says_so(configure: Configure) -> None:
    record = run(configure("train.learning_rate=1e25", "train.max_grad_norm=0", "train.max_steps=20"))
    assert record.status == "diverged"
    assert "the loss became nan, first in the " in record.message
    assert record.training["steps"] < 20


@pytest.mark.parametrize("model", ["tiny_bert", "tiny_gpt2", "tiny_opt", "tiny_llama"])
@pytest.mark.parametrize("method", ["vanilla", "clipped_softmax", "gated_attention"])
def test_every_method_runs_on_every_family(configure: Configure, model: str, method: str) -> None:
    record = run(configure(f"model={model}", f"method={method}", "train.max_steps=2"))
    assert record.status == "finished"
    assert bool(record.training["replaced"]) == (method != "vanilla")


def test_a_method_that_changes_nothing_is_an_error(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    from qexp.methods.clipped_softmax.method import METHOD

    monkeypatch.setattr(METHOD, "prepare", BaseMethod.prepare)
    with pytest.raises(UserError, match="found nothing to change"):
        run(configure("method=clipped_softmax"))


def test_a_full_disk_is_one_line_and_the_run_goes_on_later(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import SafetensorError

    from qexp.runner.training import MethodTrainer

    def full(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr(MethodTrainer, "_save_checkpoint", full)
        with pytest.raises(RunError, match="no space left"):
            run(configure())
    assert run(configure()).status == "finished"


def test_eight_bit_optimizer_trains(configure: Configure) -> None:
    record = run(configure("train.optimizer=adamw_bnb_8bit"))
    assert record.status == "finished"
    assert record.training["final_loss"] < 10


def test_unknown_optimizer_and_frozen_part_are_one_line(configure: Configure) -> None:
    with pytest.raises(UserError, match="train.optimizer=adamw_troch"):
        run(configure("train.optimizer=adamw_troch"))
    with pytest.raises(UserError, match="train.freeze"):
        run(configure("train.freeze=[nonesuch]"))
