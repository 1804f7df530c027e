"""Gated attention on every family: neutral is vanilla, sizes, inits, gradients, and how it combines."""

from __future__ import annotations

import math

import pytest
import torch

from qexp.conf.errors import UserError
from qexp.conf.schema import QuantConfig
from qexp.methods.base import Context
from qexp.methods.registry import create
from qexp.models.adapt import adapt
from qexp.models.surgery import parts_of

KINDS = ("linear", "mlp", "all_heads")


def prepared(model, pretrained=False, **settings):
    adapted = adapt(model)
    method = create("gated_attention", settings)
    return adapted, method.prepare(adapted, Context(8, pretrained=pretrained)), method


def gates(adapted):
    return [parts_of(adapted, info).gate for info in adapted.attention]


@pytest.mark.parametrize("kind", KINDS)
def test_finetuning_form_starts_as_vanilla_bit_for_bit(family, head, kind, network, tokens, output_of):
    expected = output_of(adapt(network(family, head)).module, tokens(padding="right"))
    adapted, surgery, _ = prepared(network(family, head), pretrained=True, kind=kind)
    assert torch.equal(output_of(adapted.module, tokens(padding="right")), expected)
    assert [change.site for change in surgery.replaced] == ["layers.0.context", "layers.1.context"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_gate_that_starts_neutral_still_learns(family, kind, network, tokens):
    adapted, _, _ = prepared(network(family), pretrained=True, kind=kind)
    optimizer = torch.optim.SGD(adapted.module.parameters(), lr=0.5)
    before = [parameter.clone() for gate in gates(adapted) for parameter in gate.parameters()]
    for _ in range(2):  # the hidden layer of an MLP gate moves once its output layer has
        optimizer.zero_grad()
        adapted.module(**tokens(), labels=tokens()["input_ids"]).loss.backward()
        optimizer.step()
    after = [parameter for gate in gates(adapted) for parameter in gate.parameters()]
    assert all((old != new).any() for old, new in zip(before, after, strict=True))


def test_open_and_closed_gates(family, network, tokens, output_of):
    expected = output_of(adapt(network(family)).module, tokens())
    adapted, _, _ = prepared(network(family), finetune=True)
    for gate in gates(adapted):
        gate.multiplier = 1.0
        torch.nn.init.constant_(gate.output_bias, 40.0)
    assert torch.equal(output_of(adapted.module, tokens()), expected)
    for gate in gates(adapted):
        torch.nn.init.constant_(gate.output_bias, -200.0)
    closed, outputs = output_of(adapted.module, tokens()), []
    projection = adapted.module.get_submodule(adapted.sites["layers.0.attention_output"].module)
    projection.register_forward_hook(lambda module, _, out: outputs.append((module.bias, out)))
    assert torch.equal(output_of(adapted.module, tokens()), closed) and not torch.equal(closed, expected)
    bias, out = outputs[0]
    assert torch.equal(out, torch.zeros_like(out) if bias is None else bias.expand_as(out))


@pytest.mark.parametrize(
    ("settings", "parameters"),
    [
        ({}, 780),
        ({"kind": "mlp"}, 12_684),
        ({"kind": "mlp", "hidden": 4}, 3_180),
        ({"kind": "all_heads"}, 9_228),
    ],
)
def test_sizes_are_the_papers_for_bert_base(settings, parameters, network):
    adapted, _, _ = prepared(
        network("bert", "base", hidden_size=768, num_attention_heads=12, intermediate_size=4, num_hidden_layers=1),
        **settings,
    )
    assert sum(parameter.numel() for parameter in gates(adapted)[0].parameters()) == parameters


def test_pi_init_sets_the_bias(network):
    for kind, pi in (("linear", 0.25), ("mlp", 0.9), ("all_heads", 0.1)):
        adapted, _, _ = prepared(network("opt"), kind=kind, pi_init=pi)
        torch.testing.assert_close(gates(adapted)[0].output_bias.sigmoid(), torch.full((2,), pi))
    default, _, _ = prepared(network("opt"))
    assert gates(default)[0].output_bias.tolist() == [0.0, 0.0]
    random, _, _ = prepared(network("opt"), kind="all_heads")  # the released code: nn.Linear's own bias
    assert gates(random)[0].output_bias.abs().min() > 0


@pytest.mark.parametrize(
    ("finetune", "pretrained", "multiplier"),
    [("auto", True, 4.0), ("auto", False, 1.0), (True, False, 4.0), (False, True, 1.0)],
)
def test_which_form_is_used(finetune, pretrained, multiplier, network):
    adapted, _, _ = prepared(network("bert"), pretrained=pretrained, finetune=finetune, pi_init=0.25)
    gate = gates(adapted)[0]
    assert gate.multiplier == multiplier
    assert (gate.output_weight == 0).all() == (multiplier != 1.0)
    assert gate.output_bias.tolist() == pytest.approx([math.log(0.25 / 0.75)] * 2)


def test_init_std_spreads_the_gates(network):
    torch.manual_seed(0)
    adapted, _, _ = prepared(network("bert"), finetune=True, init_std=0.01)
    weights = torch.cat([gate.output_weight.flatten() for gate in gates(adapted)])
    assert 0.005 < weights.std() < 0.02


def test_learning_rate_rule(network):
    assert create("gated_attention", {}).parameter_rules() == ()
    adapted, _, method = prepared(network("llama"), lr_factor=30.0)
    (rule,) = method.parameter_rules()
    assert (rule.lr_factor, rule.weight_decay) == (30.0, 0.0)
    matched = {name for name, _ in adapted.module.named_parameters() if rule.match in name}
    assert len(matched) == 4 and all(".qexp.gate." in name for name in matched)


def test_gate_is_causal(network, tokens, output_of):
    adapted, _, _ = prepared(network("gpt2"))
    before, inputs = output_of(adapted.module, tokens()), tokens()
    inputs["input_ids"][:, 5:] = 3
    torch.testing.assert_close(output_of(adapted.module, inputs)[:, :5], before[:, :5], atol=1e-5, rtol=0.0)


def test_combines_with_clipped_softmax_but_not_with_itself(network, tokens, output_of):
    adapted, _, method = prepared(network("bert"))
    once = output_of(adapted.module, tokens())
    create("clipped_softmax", {"gamma": -0.1}).prepare(adapted, Context(8, pretrained=False))
    assert not torch.equal(output_of(adapted.module, tokens()), once)
    with pytest.raises(UserError, match="both set the attention's gate"):
        method.prepare(adapted, Context(8, pretrained=False))


@pytest.mark.parametrize("kind", KINDS)
def test_converts_and_leaves_the_gate_in_float(family, kind, network, tokens, output_of):
    adapted, _, method = prepared(network(family), kind=kind)
    expected = output_of(adapted.module, tokens())
    quantized = method.convert(adapted, QuantConfig(name="test"), "w16a16", [tokens()])
    assert (output_of(quantized, tokens()) - expected).abs().max() < 0.01 * expected.abs().max()
    for info, gate in zip(adapted.attention, gates(adapted), strict=True):
        twin = quantized.get_submodule(f"{info.module}.qexp.gate")
        assert all(torch.equal(a, b) for a, b in zip(gate.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_gate_sees_slices_of_the_input_however_wide_the_heads_are(kind, network, tokens, output_of):
    model = network("llama", head_dim=8)  # 4 heads of 8 on a width of 16
    expected = output_of(model, tokens())
    adapted, _, _ = prepared(model, pretrained=True, kind=kind)
    torch.testing.assert_close(output_of(adapted.module, tokens()), expected, atol=1e-5, rtol=0.0)
