"""Executing in integers: what is compared, what is refused and when, and what the record then holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModel

from qexp.conf.errors import UserError
from qexp.conf.schema import ExperimentConfig
from qexp.kernels import native
from qexp.kernels.int8 import backends
from qexp.models.adapt import adapt
from qexp.models.quantization import choose_sites
from qexp.results.schema import Record
from qexp.results.store import Store
from qexp.runner import devices
from qexp.runner.compose import compose
from qexp.runner.experiment import run_experiment
from qexp.runner.integer import CONTROL_BATCHES, LogitGap, SideBySide
from qexp.runner.progress import SilentProgress
from qexp.runner.tracked_values import summary_values
from qexp.runner.tracking import NullTracker

Configure = Callable[..., ExperimentConfig]
CPU = torch.device("cpu")


class Phases(SilentProgress):
    def __init__(self) -> None:
        self.names: list[str] = []

    def start(self, phase: str, total: int | None = None) -> None:
        self.names.append(phase)


def run(cfg: ExperimentConfig, progress: Phases | None = None) -> Record:
    return run_experiment(cfg, Store(Path(cfg.results_dir)), NullTracker(), progress or Phases())


def logits(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 5), st.integers(1, 6), st.integers(2, 7), st.integers(0, 99), st.integers(1, 5))
def test_the_gap_is_that_of_all_attended_positions(rows: int, length: int, width: int, seed: int, cut: int) -> None:
    simulated, executed = logits(seed, rows, length, width), logits(seed + 1, rows, length, width)
    attended = torch.rand(rows, length, generator=torch.Generator().manual_seed(seed)) < 0.6
    attended[0, 0] = True
    gap = LogitGap()
    for part in zip(simulated.split(cut), executed.split(cut), attended.long().split(cut), strict=True):
        gap.update(*part)
    found = gap.result()
    a, b = simulated[attended].double(), executed[attended].double()
    assert found["n"] == int(attended.sum())
    assert found["logits_max_abs"] == float((executed - simulated)[attended].abs().max())
    assert found["logits_mean_abs"] == pytest.approx(float((a - b).abs().mean()), rel=1e-6)  # differences are float32
    assert found["argmax_agreement"] == float((a.argmax(-1) == b.argmax(-1)).double().mean())


def test_without_a_mask_every_position_counts_and_a_classifier_has_one_an_example() -> None:
    gap = LogitGap()
    gap.update(logits(1, 3, 4, 5), logits(2, 3, 4, 5), None)
    assert gap.result()["n"] == 12
    gap = LogitGap()
    gap.update(logits(1, 3, 5), logits(2, 3, 5), torch.zeros(3, 9))
    assert gap.result()["n"] == 3


def test_equal_networks_have_no_gap_and_a_regression_no_largest_logit() -> None:
    gap = LogitGap()
    gap.update(logits(1, 3, 5), logits(1, 3, 5), None)
    assert gap.result() == {"logits_max_abs": 0.0, "logits_mean_abs": 0.0, "argmax_agreement": 1.0, "n": 3}
    gap = LogitGap()
    gap.update(logits(1, 3, 1), logits(2, 3, 1), None)
    assert gap.result()["argmax_agreement"] is None


class Affine(torch.nn.Module):
    def __init__(self, shift: float):
        super().__init__()
        self.shift = shift

    def forward(self, x: torch.Tensor, attention_mask: torch.Tensor | None = None) -> Any:
        return SimpleNamespace(logits=x + self.shift)


def test_side_by_side_gives_the_executed_output() -> None:
    both = SideBySide(Affine(0.0), Affine(0.5))
    x = logits(1, 2, 3, 4)
    assert torch.equal(both(x=x).logits, x + 0.5)
    assert both.gap.result()["logits_max_abs"] == pytest.approx(0.5)


def test_the_control_computes_in_float64_and_leaves_the_simulation_alone() -> None:
    simulated = torch.nn.Linear(2, 2)
    both = SideBySide(simulated, simulated)
    assert both.control is not None
    assert {p.dtype for p in both.control.parameters()} == {torch.float64}
    assert simulated.weight.dtype == torch.float32


def test_the_control_is_the_simulation_in_float64_on_the_first_batches() -> None:
    both = SideBySide(Affine(0.0), Affine(0.5))
    both.control = Affine(0.25)
    for seed in range(CONTROL_BATCHES + 1):
        both(x=logits(seed, 2, 4))
    found = both.control_gap.result()
    assert found["n"] == 2 * CONTROL_BATCHES
    assert found["logits_max_abs"] == pytest.approx(0.25)
    assert both.control is None


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("quant.bits=[w8a8,w8a16]", "w8a16 cannot be executed in 8-bit integers"),
        ("quant.bits=w32a8", "w32a8 cannot"),
        ("quant=per_token", "quant.activations.granularity=per_tensor"),
        ("quant.activations.granularity=per_channel", "per_channel cannot be executed"),
        ("quant=none", "no setting to execute"),
    ],
)
def test_what_has_no_integer_form_is_refused_while_composing(configure: Configure, override: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        configure("eval.integer=true", override)
    assert configure(override)


@pytest.mark.parametrize("override", ["quant=low_bits", "quant=per_channel", "quant=mse", "quant=products"])
def test_what_has_one_composes(configure: Configure, override: str) -> None:
    assert configure("eval.integer=true", override).eval.integer


def test_a_back_end_that_cannot_be_used_is_refused_before_anything_runs(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def select(name: str = "auto", device: str = "cpu") -> None:
        raise ValueError(f"int8 back end {name!r} is not exact here: saturates")

    monkeypatch.setattr(backends, "select", select)
    phases = Phases()
    for overrides in (["kernels.int8=vnni"], ["eval.integer=true", "kernels.int8=vnni"]):
        with pytest.raises(UserError, match="kernels.int8=vnni: int8 back end 'vnni' is not exact here: saturates"):
            run(configure(*overrides), phases)
    assert phases.names == []


def test_first_use_says_that_it_builds_and_a_fallback_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(native, "needs_build", lambda: True)
    monkeypatch.setattr(native, "unavailable", lambda: None)
    devices.require_backend("reference", CPU, said.append)
    assert said == [devices.BUILDING]
    monkeypatch.setattr(native, "needs_build", lambda: False)
    monkeypatch.setattr(native, "unavailable", lambda: "there is no C++ compiler")
    devices.require_backend("reference", CPU, said.append)
    assert said[1:] == ["going on without qexp's native kernels: there is no C++ compiler"]


FAMILIES = ["tiny_bert", "tiny_gpt2", "tiny_opt", "tiny_llama"]


@pytest.mark.parametrize("model", FAMILIES)
def test_the_record_holds_executed_figures_the_gap_and_a_certificate(configure: Configure, model: str) -> None:
    phases = Phases()
    record = run(
        configure(f"model={model}", "eval.integer=true", "train.max_steps=2", "kernels.int8=reference"), phases
    )
    assert list(record.metrics) == ["float", "w8a8", "w8a8.integer"]
    assert phases.names[-3:] == ["calibrating w8a8", "evaluating w8a8", "executing w8a8"]
    found = record.integer["w8a8"]
    simulated, executed = (record.metrics[s]["perplexity"] for s in ("w8a8", "w8a8.integer"))
    assert found["gap"]["metric"] == executed.value - simulated.value
    assert (executed.n, executed.definition) == (simulated.n, simulated.definition)
    assert found["gap"]["argmax_agreement"] >= 0.99
    proof = found["certificate"]
    kinds = {product["kind"] for product in proof["products"]}
    assert kinds == {"linear", "attention_scores", "attention_context"}
    assert (proof["backend"], proof["bits"], proof["threads"]) == ("reference", "w8a8", torch.get_num_threads())
    assert not [product for product in proof["in_float"] if product["name"].startswith("layers.")]
    assert all(product["calls"] for product in proof["products"])
    values = summary_values(record)
    assert f"{len(proof['products'])} of" in values["w8a8.integer/certificate"]
    assert values["w8a8.integer/gap/argmax_agreement"] == found["gap"]["argmax_agreement"]
    assert Store(Path(configure().results_dir)).load(record.cell_id) == record


def test_executing_changes_no_other_figure_and_shares_the_trained_network(configure: Configure) -> None:
    plain, phases = run(configure()), Phases()
    both = run(configure("eval.integer=true", "kernels.int8=reference"), phases)
    assert "training" not in phases.names
    assert both.cell_id != plain.cell_id
    assert {s: m for s, m in both.metrics.items() if s != "w8a8.integer"} == plain.metrics
    assert both.training == plain.training


WIDTHS = {"num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 30, "pad_token_id": 1}
NETWORKS = {
    "bert": {**WIDTHS, "hidden_size": 8, "intermediate_size": 16},
    "roberta": {**WIDTHS, "hidden_size": 8, "intermediate_size": 16},
    "ernie": {**WIDTHS, "hidden_size": 8, "intermediate_size": 16, "use_task_id": True},
    "gpt2": {"n_embd": 8, "n_layer": 2, "n_head": 2, "vocab_size": 30, "bos_token_id": 2, "eos_token_id": 2},
    "opt": {**WIDTHS, "hidden_size": 8, "ffn_dim": 16, "word_embed_proj_dim": 4, "do_layer_norm_before": False},
    "llama": {**WIDTHS, "hidden_size": 8, "intermediate_size": 16},
}


@pytest.mark.parametrize("family", NETWORKS)
def test_quant_products_leaves_out_no_operand_of_a_product(family: str) -> None:
    model = adapt(AutoModel.from_config(AutoConfig.for_model(family, **NETWORKS[family])))
    chosen = {site.name for site in choose_sites(model.sites, compose(["quant=products"]).quant)}
    operands = {linear.input for linear in model.linears}
    operands |= {site for info in model.attention for site in (info.query, info.key, info.value)}
    operands |= {f"layers.{info.layer}.attention_probs" for info in model.attention}
    assert operands | {site.name for site in model.sites.weights()} <= chosen
    assert not [name for name in chosen if name.endswith(("residual", "attention_scores", "_output"))]
