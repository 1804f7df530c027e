"""A saved model comes back with the same logits, and never without its methods."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qexp.conf.errors import UserError
from qexp.conf.schema import ModelConfig
from qexp.kernels.attention import clipped_softmax
from qexp.kernels.gates import LinearGate
from qexp.models.adapt import adapt
from qexp.models.loading import load_model, load_tokenizer
from qexp.models.saving import is_saved, load_saved, read_settings, save_model
from qexp.models.sites import AdaptedModel
from qexp.models.surgery import set_gate, set_probability

FAMILIES = ("bert", "roberta", "ernie", "gpt2", "opt", "llama")
METHODS = [{"name": "clipped", "settings": {"gamma": -0.05}}, {"name": "gated", "settings": {"pi_init": 0.3}}]
SETTINGS = {"methods": METHODS, "max_length": 16}
TEXTS = ["one two three four five six seven", "eight nine ten"] * 10


class Clipped(nn.Module):
    def __init__(self, gamma: float):
        super().__init__()
        self.gamma = gamma

    def forward(self, x: Tensor) -> Tensor:
        return clipped_softmax(x, self.gamma, 1.0)


def put_methods(adapted: AdaptedModel, methods: list[dict[str, Any]]) -> None:
    for method in methods:
        settings = method["settings"]
        if method["name"] == "clipped":
            set_probability(adapted, lambda info, gamma=settings["gamma"]: Clipped(gamma), owner="clipped")
        elif method["name"] == "gated":
            pi_init = settings["pi_init"]
            set_gate(adapted, lambda info, pi=pi_init: LinearGate(info.heads, info.width // info.heads, pi), owner="g")


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    cfg = ModelConfig(name="t", source="scratch", family="roberta", tokenizer="train", vocab_size=300)
    return load_tokenizer(cfg, TEXTS, None, tmp_path / "cache")


def logits(model: AdaptedModel, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model.module(**batch).logits  # type: ignore[no-any-return]  # nn.Module's call is untyped


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", ["language", "classifier"])
def test_reload_gives_the_same_logits(
    family: str, head: str, network: Any, tokens: Any, tokenizer: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    adapted = adapt(network(family, head, use_cache=False))  # a cache changes memory layouts, and so rounding
    plain = logits(adapted, tokens())
    put_methods(adapted, METHODS)
    before = logits(adapted, tokens())
    assert not torch.allclose(plain, before)
    save_model(adapted, tokenizer, tmp_path / "model", SETTINGS)
    objective: Any = "classification"
    if head == "language":
        objective = "masked_lm" if family in FAMILIES[:3] else "causal_lm"
    loaded, settings = load_saved(tmp_path / "model", objective, 3, put_methods)
    assert torch.equal(logits(loaded, tokens()), before)
    assert not loaded.module.training
    assert settings["methods"] == METHODS and settings["max_length"] == 16 and "torch" in settings["versions"]
    assert is_saved(tmp_path / "model") and read_settings(tmp_path / "model") == settings


@pytest.fixture
def saved(network: Any, tokenizer: Any, tmp_path: Path) -> Path:
    adapted = adapt(network("bert"))
    put_methods(adapted, METHODS)
    save_model(adapted, tokenizer, tmp_path / "saved", SETTINGS)
    return tmp_path / "saved"


def nothing(adapted: AdaptedModel, methods: list[dict[str, Any]]) -> None:
    return None


def test_without_its_settings_it_is_refused_by_every_loader(saved: Path, tokenizer: Any) -> None:
    (saved / "qexp.json").unlink()
    with pytest.raises(UserError, match="has no qexp.json"):
        load_saved(saved, "masked_lm", None, put_methods)
    cfg = ModelConfig(name="hub", source="hub", path=str(saved))
    with pytest.raises(UserError, match="saved by qexp with clipped, gated"):
        load_model(cfg, "masked_lm", None, tokenizer, 16, seed=0)


def test_methods_that_do_not_fit_the_weights_are_refused(saved: Path) -> None:
    with pytest.raises(UserError, match="does not fit the model and its methods"):
        load_saved(saved, "masked_lm", None, nothing)


@pytest.mark.parametrize("text", ["{", "[]", '{"methods": "gated"}'])
def test_a_damaged_qexp_json_is_refused(saved: Path, text: str) -> None:
    (saved / "qexp.json").write_text(text)
    with pytest.raises(UserError, match=r"qexp\.json"):
        load_saved(saved, "masked_lm", None, put_methods)


def test_truncated_weights_are_refused(saved: Path) -> None:
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(UserError, match="does not fit") as caught:
        load_saved(saved, "masked_lm", None, put_methods)
    assert "\n" not in str(caught.value)


def test_another_objective_is_refused(saved: Path) -> None:
    with pytest.raises(UserError, match="classification needs a BertForSequenceClassification"):
        load_saved(saved, "classification", 2, put_methods)


def test_another_label_count_is_refused(network: Any, tokenizer: Any, tmp_path: Path) -> None:
    save_model(adapt(network("gpt2", "classifier")), tokenizer, tmp_path / "m", {"methods": [], "max_length": 8})
    with pytest.raises(UserError, match="head has 3 labels and the task has 2"):
        load_saved(tmp_path / "m", "classification", 2, nothing)


def test_saving_replaces_whole_folders_and_an_error_keeps_the_old_one(
    network: Any, tokenizer: Any, saved: Path, tmp_path: Path
) -> None:
    (saved / "leftover").write_text("x")
    adapted = adapt(network("bert"))
    save_model(adapted, tokenizer, saved, {"methods": [{"name": "vanilla", "settings": {}}], "max_length": 8})
    assert not (saved / "leftover").exists() and read_settings(saved)["max_length"] == 8
    with pytest.raises(TypeError):
        save_model(adapted, tokenizer, saved, {"methods": [], "max_length": object()})
    assert read_settings(saved)["max_length"] == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "saved"]


def test_a_vanilla_model_is_an_ordinary_checkpoint(network: Any, tokens: Any, tokenizer: Any, tmp_path: Path) -> None:
    adapted = adapt(network("opt", vocab_size=300))
    save_model(adapted, tokenizer, tmp_path / "m", {"methods": [{"name": "vanilla"}], "max_length": 8})
    cfg = ModelConfig(name="hub", source="hub", path=str(tmp_path / "m"))
    model = load_model(cfg, "causal_lm", None, load_tokenizer(cfg, None, None, tmp_path), 16, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), adapted.module.parameters(), strict=True))
    assert json.loads((tmp_path / "m" / "config.json").read_text())["architectures"] == ["OPTForCausalLM"]


def test_an_unwritable_folder_is_one_line(network: Any, tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write in"):
        save_model(adapt(network("bert")), tokenizer, tmp_path / "file" / "m", SETTINGS)
