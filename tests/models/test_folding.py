"""Scales that fold: where, that the function stays, that the tensors change as said, and what cannot fold."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from qexp.conf.errors import UserError
from qexp.kernels.quantize import fake_quantize, qparams_from_range
from qexp.methods.base import Context
from qexp.methods.registry import create
from qexp.models.adapt import adapt
from qexp.models.capture import capture
from qexp.models.folding import default_roles, fold, scale_output, scalings, unscale_input

NORMS = ("attention_norm", "ffn_norm")
FOLDS = {
    **dict.fromkeys(("bert", "roberta", "ernie"), ("value",)),
    "gpt2": (*NORMS, "value"),
    "opt": (*NORMS, "value", "ffn_hidden"),
    "llama": (*NORMS, "value", "up"),
}
ROLES = ("attention_norm", "ffn_norm", "final_norm", "value", "up", "ffn_hidden")
VARIANTS = [
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("llama", {"num_key_value_heads": 1, "head_dim": 8}),
    ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 8}),
    ("opt", {"enable_bias": False}),
    ("gpt2", {"activation_function": "relu"}),
    ("bert", {"hidden_act": "relu"}),
]


def foldable(model):
    found = []
    for role in ROLES:
        try:
            found += scalings(model, [role])
        except UserError:
            continue
    return found


def alphas(scaling, generator, powers=False):
    exponents = torch.randint(-3, 4, (scaling.channels,), generator=generator)
    return 2.0**exponents if powers else 0.1 + 3 * torch.rand(scaling.channels, generator=generator)


def fold_all(model, powers, seed=3):
    generator = torch.Generator().manual_seed(seed)
    found = {scaling: alphas(scaling, generator, powers) for scaling in foldable(model)}
    for scaling, alpha in found.items():
        fold(model.module, scaling, alpha)
    return found


@pytest.fixture(params=[*((name, {}) for name in FOLDS), *VARIANTS], ids=str)
def adapted(request, network):
    family, changes = request.param
    return adapt(network(family, **changes))


def test_what_folds_in_which_family(family, head, network):
    model = adapt(network(family, head))
    assert tuple(dict.fromkeys(one.role for one in foldable(model))) == FOLDS[family]
    assert default_roles(model) == (NORMS if family in ("gpt2", "opt", "llama") else ("value",))
    names = [scaling.name for scaling in scalings(model)]
    assert names == [f"layers.{layer}.{role}" for layer in range(2) for role in default_roles(model)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_the_function_stays(adapted, tokens, output_of, dtype, tolerance):
    adapted.module.to(dtype)
    expected = output_of(adapted.module, tokens(padding="right"))
    assert fold_all(adapted, powers=False)
    found = output_of(adapted.module, tokens(padding="right"))
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


def test_powers_of_two_leave_every_bit(adapted, tokens, output_of):
    expected = output_of(adapted.module, tokens(padding="right"))
    before = copy.deepcopy(adapted.module.state_dict())
    folded = fold_all(adapted, powers=True)
    assert torch.equal(output_of(adapted.module, tokens(padding="right")), expected)
    for scaling, alpha in folded.items():
        fold(adapted.module, scaling, 1 / alpha)
    after = adapted.module.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


def test_exactly_the_named_sites_are_multiplied(adapted, tokens):
    """GPT-2's ``qkv`` is multiplied in its last third only, so it is no named site but changes."""
    sites = adapted.sites.activations()
    for scaling in foldable(adapted):
        model = copy.deepcopy(adapted.module)
        alpha = alphas(scaling, torch.Generator().manual_seed(1), powers=True)
        fold(model, scaling, alpha)
        with torch.no_grad(), capture(adapted.module, sites) as before, capture(model, sites) as after:
            adapted.module(**tokens()), model(**tokens())
        for name, old in before.items():
            factor = torch.ones(())
            if name in scaling.sites:
                factor = scaling.at_input(alpha) if name == scaling.input else alpha
            if name == f"layers.{scaling.layer}.qkv" and scaling.role == "value":
                factor = F.pad(alpha, (2 * scaling.channels, 0), value=1.0)
            assert torch.equal(after[name], old * factor), (scaling.name, name)


def test_biases_are_multiplied_too(network):
    model = adapt(network("opt"))
    (scaling,) = [one for one in scalings(model, ["value"]) if one.layer == 0]
    producer = model.module.get_submodule(scaling.producer)
    expected = 4 * producer.bias.detach()
    fold(model.module, scaling, torch.full((scaling.channels,), 4.0))
    assert torch.equal(producer.bias, expected)


def test_grouped_value_heads_share_an_alpha(network):
    scaling = scalings(adapt(network("llama")), ["value"])[0]
    assert (scaling.channels, scaling.groups, scaling.head_dim) == (8, 2, 4)
    alpha = torch.arange(8.0)
    assert scaling.at_input(alpha).tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7]
    assert torch.equal(scaling.largest(scaling.at_input(alpha)), alpha)
    assert scaling.largest(torch.arange(16.0)).tolist() == [4, 5, 6, 7, 12, 13, 14, 15]


def test_the_values_of_a_fused_projection_are_its_last_third(network):
    scaling = scalings(adapt(network("gpt2")), ["value"])[0]
    assert (scaling.channels, scaling.first_row, scaling.sites) == (16, 32, ("layers.0.context",))
    assert scaling.producer.endswith("attn.c_attn")


def test_of_a_gated_attention_only_the_norm_that_the_gate_reads_does_not_fold(network, tokens, output_of):
    for family in ("gpt2", "opt", "llama", "bert"):
        model = adapt(network(family))
        create("gated_attention", {}).prepare(model, Context(8, pretrained=False))
        expected = output_of(model.module, tokens())
        assert {one.role for one in fold_all(model, powers=True)} == {*FOLDS[family]} - {"attention_norm"}
        assert torch.equal(output_of(model.module, tokens()), expected)
        with pytest.raises(UserError, match="the (gate of the attention|residual stream)"):
            scalings(model, ["attention_norm"])


@pytest.mark.parametrize(
    ("name", "role", "reason"),
    [
        ("bert", "attention_norm", "'attention_norm' does not fold into this bert network: .* residual stream"),
        ("bert", "ffn_norm", "residual stream"),
        ("bert", "ffn_hidden", "other than ReLU"),
        ("gpt2", "ffn_hidden", "other than ReLU"),
        ("gpt2", "final_norm", "the head"),
        ("llama", "final_norm", "the head"),
        ("llama", "ffn_hidden", "no linear layer of that role"),
        ("opt", "up", "no linear layer of that role"),
        ("opt", "attention_scores", "no normalisation"),
        ("opt", "norm", "no normalisation"),
    ],
)
def test_a_role_that_cannot_fold_is_refused_with_the_reason(network, name, role, reason):
    with pytest.raises(UserError, match=reason):
        scalings(adapt(network(name)), [role])


def test_post_layernorm_opt_folds_where_bert_does(network):
    model = adapt(network("opt", do_layer_norm_before=False))
    assert [one.role for one in scalings(model)] == ["value", "value"]
    with pytest.raises(UserError, match="residual stream"):
        scalings(model, ["attention_norm"])


def test_a_norm_without_a_gain_does_not_fold(network):
    model = adapt(network("opt", layer_norm_elementwise_affine=False))
    assert default_roles(model) == ("value",)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_alpha_must_be_positive_and_finite(network, bad):
    model = adapt(network("gpt2"))
    alpha = torch.ones(16)
    alpha[3] = bad
    with pytest.raises(ValueError, match="positive and finite"):
        fold(model.module, scalings(model)[0], alpha)
    with pytest.raises(ValueError, match=r"\[16\], not \[5\]"):
        fold(model.module, scalings(model)[0], torch.ones(5))


def test_weights_behind_a_parametrization_are_refused(network):
    model = adapt(network("gpt2"))
    scaling = scalings(model)[0]
    nn.utils.parametrize.register_parametrization(model.module.get_submodule(scaling.consumers[0]), "weight", nn.ReLU())
    with pytest.raises(ValueError, match="before quantizers are placed"):
        fold(model.module, scaling, torch.full((16,), 2.0))


@pytest.mark.parametrize("conv1d", [False, True])
def test_the_functional_pieces_are_what_fold_does_and_differentiable(conv1d):
    torch.manual_seed(0)
    first, second = (Conv1D(6, 4), Conv1D(3, 6)) if conv1d else (nn.Linear(4, 6), nn.Linear(6, 3))
    x, a = torch.randn(5, 4), torch.randn(6, requires_grad=True)
    weight, bias = scale_output(first.weight, first.bias, a.exp(), conv1d=conv1d)
    columns = unscale_input(second.weight, a.exp(), conv1d=conv1d)

    def through(weight, x, bias):
        return x @ (weight if conv1d else weight.T) + bias

    hidden = through(weight, x, bias)
    torch.testing.assert_close(hidden, first(x) * a.exp())
    torch.testing.assert_close(through(columns, hidden, second.bias), second(first(x)))
    (gradient,) = torch.autograd.grad(weight.sum(), a, retain_graph=True)
    torch.testing.assert_close(gradient, weight.sum(0 if conv1d else 1).detach())
    (gradient,) = torch.autograd.grad((through(columns, hidden, second.bias) ** 2).sum(), a)
    torch.testing.assert_close(gradient, torch.zeros(6), atol=1e-4, rtol=0)  # the function does not depend on a


def quantized(x, bits=8):
    """Per-tensor symmetric fake quantization over the range of ``x``."""
    return fake_quantize(x, qparams_from_range(x.min(), x.max(), bits, symmetric=True))


def test_a_quantizer_between_the_folded_scales_acts_as_between_unfolded_ones():
    """Law 5: ``W (Q(alpha x) / alpha)`` is ``(W / alpha) Q(alpha x)``."""
    torch.manual_seed(0)
    norm, linear = nn.LayerNorm(8).double(), nn.Linear(8, 5).double()
    x, alpha = torch.randn(16, 8).double(), torch.rand(8).double() + 0.2
    unfolded = linear(quantized(alpha * norm(x)) / alpha)
    gain, shift = scale_output(norm.weight, norm.bias, alpha)
    folded = quantized(F.layer_norm(x, (8,), gain, shift)) @ unscale_input(linear.weight, alpha).T + linear.bias
    torch.testing.assert_close(folded, unfolded, rtol=0, atol=1e-13)


def test_with_weights_quantized_per_tensor_folding_is_another_network():
    """Law 6: per tensor the two differ; with a scale for each input channel they would not."""
    torch.manual_seed(0)
    linear, x = nn.Linear(8, 5).double(), torch.randn(16, 8).double()
    alpha = torch.tensor([64.0, *[1.0] * 7]).double()
    columns = unscale_input(linear.weight, alpha)
    unfolded = x @ quantized(linear.weight, 4).T
    assert ((alpha * x) @ quantized(columns, 4).T - unfolded).abs().max() > 0.05
    per_channel = torch.stack([quantized(column, 4) for column in columns.T], 1)
    expected = torch.stack([quantized(column, 4) for column in linear.weight.T], 1)
    torch.testing.assert_close((alpha * x) @ per_channel.T, x @ expected.T, rtol=0, atol=1e-13)


def test_permuted_channels_have_permuted_alphas():
    """Law 11: folding commutes with a permutation of the channels between."""
    torch.manual_seed(0)
    first, second = nn.Linear(4, 6), nn.Linear(6, 3)
    alpha, order = torch.rand(6) + 0.5, torch.randperm(6)
    weight, bias = scale_output(first.weight, first.bias, alpha)
    permuted = scale_output(first.weight[order], first.bias[order], alpha[order])
    assert torch.equal(permuted[0], weight[order]) and torch.equal(permuted[1], bias[order])
    assert torch.equal(
        unscale_input(second.weight[:, order], alpha[order]), unscale_input(second.weight, alpha)[:, order]
    )
