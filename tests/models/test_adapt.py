"""Adapting changes neither parameters nor their names, can be repeated, and refuses what it does not know."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModel

from qexp.conf.errors import UserError
from qexp.kernels.gates import LinearGate
from qexp.models.adapt import adapt, model_types
from qexp.models.surgery import set_gate, set_probability


def test_state_dict_is_untouched(family, head, network):
    model = network(family, head)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adapt(model)
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], value) for name, value in before.items())


def test_is_idempotent(family, head, network, tokens, output_of):
    model = network(family, head)
    first = adapt(model)
    expected = output_of(model, tokens())
    second = adapt(model)
    assert tuple(first.sites) == tuple(second.sites) and first.attention == second.attention
    assert torch.equal(output_of(model, tokens()), expected)


def test_a_deep_copy_is_independent(family, network, tokens, output_of):
    adapted = adapt(network(family))
    before = output_of(adapted.module, tokens())
    twin = adapt(copy.deepcopy(adapted.module))
    set_gate(twin, lambda info: LinearGate(info.heads, info.width // info.heads), owner="test")
    with torch.no_grad():
        for parameter in twin.module.parameters():
            parameter.zero_()
    assert torch.equal(output_of(adapted.module, tokens()), before)
    assert not any("qexp" in name for name in adapted.module.state_dict())
    copied_again = copy.deepcopy(twin.module)
    assert torch.equal(output_of(copied_again, tokens()), output_of(twin.module, tokens()))


def test_gate_parameters_lie_below_the_attention_module(family, network):
    adapted = adapt(network(family))
    set_gate(adapted, lambda info: LinearGate(info.heads, info.width // info.heads), owner="test")
    extra = [name for name in adapted.module.state_dict() if "qexp" in name]
    expected = [f"{info.module}.qexp.gate.output_{part}" for info in adapted.attention for part in ("weight", "bias")]
    assert extra == expected
    adapted.module.to(torch.float64)
    assert all(parameter.dtype == torch.float64 for parameter in adapted.module.parameters())


def test_two_methods_for_one_slot_are_both_named(network):
    adapted = adapt(network("bert"))
    set_probability(adapted, lambda _: torch.nn.Softmax(-1), owner="first")
    with pytest.raises(UserError, match="'first' and 'second' both set the attention's probability"):
        set_probability(adapted, lambda _: torch.nn.Softmax(-1), owner="second")


def test_attention_is_described(network):
    infos = adapt(network("llama")).attention
    assert [(i.module, i.layer, i.heads, i.head_dim, i.width) for i in infos] == [
        ("model.layers.0.self_attn", 0, 4, 4, 16),
        ("model.layers.1.self_attn", 1, 4, 4, 16),
    ]


def test_unknown_family_names_the_supported_ones():
    config = AutoConfig.for_model("distilbert", vocab_size=64, dim=16, n_heads=2, n_layers=1, hidden_dim=16)
    with pytest.raises(UserError, match="distilbert.*bert, charlm, ernie, gpt2, llama, opt, roberta, vit"):
        adapt(AutoModel.from_config(config))
    assert set(model_types()) == {"bert", "charlm", "roberta", "ernie", "gpt2", "opt", "llama", "vit"}


def test_cross_attention_is_refused(network):
    with pytest.raises(UserError, match="add_cross_attention=False"):
        adapt(network("gpt2", "base", add_cross_attention=True))
