"""Training in a narrow format, from configuration to record: resumed, skipped, told, ended, refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qexp.conf.errors import UserError
from qexp.conf.schema import ExperimentConfig
from qexp.kernels.formats import FP16, cast
from qexp.results.schema import Record
from qexp.results.store import Store
from qexp.runner import loss_scale
from qexp.runner.compose import compose
from qexp.runner.experiment import run_experiment
from qexp.runner.identity import training_id
from qexp.runner.progress import SilentProgress
from qexp.runner.tracking import NullTracker

Configure = Callable[..., ExperimentConfig]
MODES = {
    "fp8": ("train.precision=fp8",),
    "fp8, random, scaled": ("train.precision=fp8", "train.rounding=stochastic", "train.loss_scale=1024"),
    "fp16": ("train.precision=fp16",),
    "fp16, dynamic": ("train.precision=fp16", "train.loss_scale=dynamic", "train.gradient_accumulation=2"),
    "bf16": ("train.precision=bf16",),
}


class Dies(SilentProgress):
    """Dies at a given training step as a killed process would."""

    def __init__(self, at: int):
        self.at = at

    def start(self, phase: str, total: int | None) -> None:
        self.phase = phase

    def advance(self, done: int, total: int | None = None, note: str = "") -> None:
        if self.phase == "training" and done == self.at:
            raise RuntimeError("killed")


def run(cfg: ExperimentConfig, progress: SilentProgress | None = None) -> Record:
    return run_experiment(cfg, Store(Path(cfg.results_dir)), NullTracker(), progress or SilentProgress())


@pytest.fixture
def brief(configure: Configure) -> Configure:
    return lambda *overrides: configure(
        "model=tiny_gpt2", "train.logging_steps=2", "eval.outliers=false", "quant=none", *overrides
    )


def weights(cfg: ExperimentConfig) -> dict[str, torch.Tensor]:
    return load_file(Path(cfg.results_dir, "trained", training_id(cfg), "model.safetensors"))


@pytest.mark.parametrize("mode", MODES)
def test_killed_and_started_again_is_the_same_run_bit_for_bit(brief: Configure, tmp_path: Path, mode: str) -> None:
    whole = brief(*MODES[mode], f"results_dir={tmp_path / 'whole'}")
    broken = brief(*MODES[mode], f"results_dir={tmp_path / 'broken'}")
    first = run(whole)
    with pytest.raises(RuntimeError, match="killed"):
        run(broken, Dies(at=5))
    again = run(broken)
    assert again.training["resumed_from"] == 4 and again.metrics == first.metrics
    assert again.training["curve"] == first.training["curve"]
    assert again.training["precision"] == first.training["precision"]
    expected, found = weights(whole), weights(broken)
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
    assert again.message == ""


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp8"])
def test_a_record_has_the_figures_of_the_format_beside_those_of_float32(brief: Configure, precision: str) -> None:
    record = run(brief(f"train.precision={precision}"))
    told = record.training["precision"]
    assert list(record.metrics) == ["float", precision] and record.metrics["float"] != record.metrics[precision]
    assert told["precision"] == precision and told["certificate"]["products"] and told["loss_scale"] == 1.0
    assert all({"underflow", "overflow"} == shares.keys() for shares in told["tensors"].values())
    assert all(0.0 <= entry["underflow"] <= 1.0 for entry in record.training["curve"])
    assert Store(Path(record.config["results_dir"])).load(record.cell_id) == record


def test_weights_trained_in_fp16_are_numbers_of_fp16(brief: Configure) -> None:
    cfg = brief("train.precision=fp16")
    run(cfg)
    assert all(torch.equal(cast(weight, FP16), weight) for weight in weights(cfg).values())


def test_a_network_can_be_evaluated_in_a_format_without_training(brief: Configure) -> None:
    record = run(brief("train.precision=fp8", "train.max_steps=0"))
    assert list(record.metrics) == ["float", "fp8"] and "precision" not in record.training


def test_a_power_of_two_on_the_loss_is_taken_out_again(brief: Configure) -> None:
    choice = ("train.precision=bf16", "train.rounding=nearest")
    plain, scaled = brief(*choice), brief(*choice, "train.loss_scale=1024")
    assert run(plain).metrics == run(scaled).metrics


def test_steps_that_overflow_are_left_out_until_the_scale_fits(
    brief: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_scale, "INITIAL", 2.0**30)
    cfg = brief("train.precision=fp16", "train.loss_scale=dynamic", "train.max_steps=3", "train.logging_steps=1")
    record = run(cfg)
    told = record.training["precision"]
    assert told["skipped_steps"] == 3 and told["loss_scale"] == 2.0**27
    assert [entry["loss_scale"] for entry in record.training["curve"]] == [2.0**29, 2.0**28, 2.0**27]
    untrained = run(brief("train.precision=fp16", "train.max_steps=0"))
    assert record.metrics["fp16"] == untrained.metrics["fp16"], "no step was taken"


def test_what_becomes_infinite_ends_the_run_and_is_named_with_its_step(brief: Configure) -> None:
    record = run(brief("train.precision=fp16", "train.loss_scale=1e10"))
    assert record.status == "diverged" and record.training["steps"] == 0
    assert record.message.startswith("a gradient became ")
    assert record.message.endswith(", first in the gradient of the output of lm_head after step 0")


def test_fp8_saturates_where_a_loss_scale_is_too_large_and_says_how_much(brief: Configure) -> None:
    record = run(brief("train.precision=fp8", "train.loss_scale=1e20", "train.max_steps=2"))
    assert record.training["precision"]["tensors"]["lm_head.gradient"]["overflow"] > 0.5


def test_a_dynamic_loss_scale_sees_what_fp8_would_saturate(brief: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_scale, "INITIAL", 2.0**60)
    record = run(brief("train.precision=fp8", "train.loss_scale=dynamic", "train.max_steps=2"))
    assert record.training["precision"]["skipped_steps"] == 2


def test_a_loss_that_is_not_finite_names_its_cause(brief: Configure) -> None:
    record = run(brief("train.precision=fp16", "train.learning_rate=1e6", "train.max_grad_norm=0"))
    assert record.status == "diverged" and "the loss became nan, first in the " in record.message


def test_fp8_shares_no_network_with_fp32_and_keeps_no_trace_in_it(brief: Configure) -> None:
    base, fp8 = brief(), brief("train.precision=fp8")
    assert training_id(base) != training_id(fp8)
    run(fp8)
    assert weights(fp8).keys() == {name for name in weights_of_float(brief)}


def weights_of_float(brief: Configure) -> dict[str, torch.Tensor]:
    run(brief())
    return weights(brief())


@pytest.mark.parametrize("model", ["tiny_bert", "tiny_opt", "tiny_llama"])
@pytest.mark.parametrize("precision", ["fp16", "fp8"])
def test_every_family_trains(brief: Configure, model: str, precision: str) -> None:
    record = run(brief(f"model={model}", f"train.precision={precision}", "train.max_steps=2"))
    assert record.status == "finished" and record.training["precision"]["certificate"]["products"]


def test_methods_go_with_it(brief: Configure) -> None:
    record = run(brief("method=clipped_softmax", "train.precision=fp8", "train.max_steps=2"))
    assert list(record.metrics) == ["float", "fp8"] and record.training["replaced"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.precision=fp4"], "train.precision=fp4: expected 'fp32', 'fp16', 'bf16' or 'fp8'; did you mean fp8?"),
        (["train.loss_scale=2048"], "train.loss_scale has no use in fp32: choose train.precision=fp16, bf16 or fp8"),
        (["train.rounding=nearest"], "train.rounding has no use in fp32"),
        (["train.precision=fp16", "train.fp8_formats=paper"], "train.fp8_formats is for train.precision=fp8"),
        (["train.precision=fp8", "train.loss_scale=0"], "train.loss_scale=0: expected greater than 0 or 'dynamic'"),
        (["train.precision=fp8", "method=qat"], "method=qat has an arithmetic of its own in training"),
        (["train.precision=fp16", "method=outlier_int8"], "method=outlier_int8 has an arithmetic of its own"),
    ],
)
def test_what_does_not_go_together_is_said_in_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        compose(["model=tiny_gpt2", "task=wikitext2", *overrides])
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_the_rounding_is_settled_and_another_one_is_another_network(brief: Configure) -> None:
    assert compose(["train.precision=fp16"]).train.rounding == "stochastic"
    assert compose(["train.precision=fp8"]).train.rounding == "nearest"
    explicit = brief("train.precision=fp8", "train.rounding=nearest")
    assert training_id(explicit) == training_id(brief("train.precision=fp8"))
    assert training_id(brief("train.precision=fp8", "train.rounding=stochastic")) != training_id(explicit)


class Told(SilentProgress):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.mark.parametrize(("method", "warned"), [("unit_scaling", True), ("vanilla", False)])
def test_a_loss_scale_with_unit_scaling_is_told_to_be_needless(brief: Configure, method: str, warned: bool) -> None:
    told = Told()
    run(brief(f"method={method}", "train.precision=fp8", "train.loss_scale=1024", "train.max_steps=1"), told)
    assert any("train.loss_scale=1024.0: the gradients of method=unit_scaling" in m for m in told.messages) is warned
