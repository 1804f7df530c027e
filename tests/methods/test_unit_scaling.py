"""The method: settings, rules made of them, learning rates, and what it measures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from qexp.conf.errors import UserError
from qexp.conf.schema import TrainConfig
from qexp.kernels.unit_scaling.rules import PAPER, U_MUP
from qexp.methods.base import Context
from qexp.methods.registry import create, validate
from qexp.methods.unit_scaling.functional import rules_of, tau_of
from qexp.models.adapt import adapt
from qexp.models.unit_scaled.families import FAMILIES
from qexp.runner.compose import compose
from qexp.runner.optimizer import parameter_groups

CONTEXT = Context(8, pretrained=False)


def settings(**changes: Any) -> Any:
    return validate("unit_scaling", changes)


@pytest.fixture
def prepared(network: Callable[..., Any]) -> Callable[..., Any]:
    """(family, settings) -> the converted network and the method."""

    def make(family: str = "gpt2", **changes: Any) -> Any:
        torch.manual_seed(0)
        model = adapt(network(family, "language", tie_word_embeddings=False))
        method = create("unit_scaling", changes)
        return model, method, method.prepare(model, CONTEXT)

    return make


def test_defaults_are_the_papers_rules() -> None:
    assert rules_of(settings()) == PAPER and rules_of(settings(rules="u_mup")) == U_MUP
    tau = tau_of(settings(), 4, None)
    assert [tau(index) for index in range(4)] == [0.01, 0.5, 0.01, 0.5]


def test_a_model_that_weighs_its_sums_keeps_its_rule_unless_another_is_named() -> None:
    own = lambda index: 0.125  # noqa: E731
    assert tau_of(settings(), 4, own) is own
    assert tau_of(settings(residual="running_mean"), 4, own)(1) == 0.5
    assert tau_of(settings(tau=0.25), 4, own)(1) == 0.25
    assert tau_of(settings(rules="u_mup", residual="depth"), 4, own)(0) == pytest.approx(1 / 3)


def test_constraint_and_exponent_can_be_chosen() -> None:
    rules = rules_of(settings(constraint="to_output", weight_gradient_exponent=-1.0))
    assert rules.constraint(2.0, 8.0) == (2.0, 2.0) and rules.weight_exponent == -1.0


@pytest.mark.parametrize(
    ("model", "task", "settled"),
    [
        ("charlm_attention", "wikitext2_chars", "plain"),
        ("charlm_conv", "wikitext2_chars", "scaled"),  # it has no attention
        ("tiny_gpt2", "wikitext2_chars", "scaled"),
        ("tiny_bert", "wikitext2", "scaled"),
    ],
)
def test_attention_has_its_factor_but_in_the_authors_character_models(model: str, task: str, settled: str) -> None:
    overrides = ["method=unit_scaling", f"model={model}", f"task={task}"]
    assert compose(overrides).method[0].settings["attention"] == settled
    for asked in ("scaled", "plain"):
        assert compose([*overrides, f"method.attention={asked}"]).method[0].settings["attention"] == asked


def test_attention_without_a_factor_is_the_plain_product() -> None:
    scaled, plain = rules_of(settings(attention="scaled")), rules_of(settings(attention="plain"))
    assert scaled == PAPER and (plain.attention(64, 8, True), plain.attention(64, 8, False)) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"tau": 0.0}, "greater than 0"),
        ({"attention_tau": 1.0}, "less than 1"),
        ({"tau": 0.5, "residual": "depth"}, "belong to residual=fixed, and residual is depth"),
        ({"weight_gradient_exponent": -2.0}, "expected one of -0.5, -0.75, -1.0"),
        ({"rules": "umup"}, "paper"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=why):
        settings(**wrong)


def test_families_without_a_form_are_refused_before_anything_is_loaded() -> None:
    assert validate("unit_scaling", {}).families == tuple(FAMILIES)
    refused = r"forms of bert, gpt2, llama, charlm models' .* model=tiny_vit is of the vit family"
    with pytest.raises(UserError, match=refused):
        compose(["method=unit_scaling", "model=tiny_vit", "task=digits"])


def test_pretrained_weights_are_refused_with_the_reason(network: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="random weights: pretrained ones divided by their standard deviations"):
        create("unit_scaling", {}).prepare(adapt(network("gpt2", "language")), Context(8, pretrained=True))


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_every_layer_is_told_as_changed(prepared: Callable[..., Any], family: str) -> None:
    model, _, surgery = prepared(family)
    changed = {change.site: change.change for change in surgery.replaced}
    weights = {name.rpartition(".")[0] for name, _ in model.module.named_parameters()} - {"cls.predictions"}
    assert weights <= changed.keys() and changed["loss"] == "unit-scaled gradient"
    assert sum("tau 0.01 and 0.5" in change for change in changed.values()) == 2


def rates(model: Any, method: Any) -> dict[str, float]:
    groups = parameter_groups(model.module, TrainConfig("t", learning_rate=1.0), method.parameter_rules())
    by_id = {id(p): group["lr"] for group in groups for p in group["params"]}
    return {name: by_id[id(p)] for name, p in model.module.named_parameters()}


def test_learning_rates_of_vectors_are_divided_by_the_root_of_their_size(prepared: Callable[..., Any]) -> None:
    model, method, _ = prepared()
    for name, parameter in model.module.named_parameters():
        expected = parameter.numel() ** -0.5 if parameter.ndim == 1 else 1.0
        assert rates(model, method)[name] == pytest.approx(expected)
    model, method, _ = prepared(learning_rates="uniform")
    assert set(rates(model, method).values()) == {1.0}


def test_learning_rates_of_u_mup_depend_on_fan_in_and_depth(prepared: Callable[..., Any]) -> None:
    model, method, _ = prepared(rules="u_mup")
    found, at = rates(model, method), "transformer.h.0"
    assert found[f"{at}.mlp.c_proj.weight"] == pytest.approx((64 * 2) ** -0.5)
    assert found[f"{at}.mlp.c_proj.bias"] == pytest.approx(2**-0.5)
    assert found["transformer.wte.weight"] == pytest.approx(16**-0.5)
    assert found["lm_head.weight"] == found["transformer.ln_f.weight"] == 1.0


def test_it_measures_scales_before_training_and_after(prepared: Callable[..., Any], tokens: Any) -> None:
    model, method, _ = prepared()
    before = method.begin(model)
    found = method.analyse(model, [tokens()], before)
    assert found["kind"] == "tensor_scales" and found["initial"] == before["scales"]
    assert found["initial"]["lm_head"].keys() == {"weight", "activation", "gradient", "weight_gradient"}
    assert found["trained"]["lm_head"].keys() == {"weight", "activation"}


def test_it_learns(prepared: Callable[..., Any], tokens: Any) -> None:
    model, _, _ = prepared("llama")
    batch = {**tokens(), "labels": tokens()["input_ids"]}
    optimizer = torch.optim.Adam(model.module.parameters(), 0.1)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = model.module(**batch).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
