"""SmoothQuant: the closed form, that the function stays, and that planted outliers vanish."""

from __future__ import annotations

import copy

import pytest
import torch

from qexp.conf.errors import UserError
from qexp.conf.schema import PlantConfig, QuantConfig
from qexp.methods.base import Context
from qexp.methods.registry import acts_in_training, create, validate
from qexp.methods.smoothquant.functional import smoothing_scales
from qexp.methods.smoothquant.method import channel_maxima
from qexp.models.adapt import adapt
from qexp.models.folding import scalings
from qexp.models.planting import plant_outliers, planted_scales

SPEC = QuantConfig("ptq")


def batches(tokens):
    return [tokens(seed=seed, padding="right") for seed in range(3)]


def weights_of(model, scaling):
    """Largest absolute weight that reads each channel, slowly: through the consumers' own answer to unit inputs."""
    found = []
    for name in scaling.consumers:
        layer = model.module.get_submodule(name)
        size = scaling.channels * scaling.groups
        answers = layer(torch.eye(size)) - layer(torch.zeros(size, size))
        found.append(answers.abs().amax(1))
    return scaling.largest(torch.stack(found).amax(0)).detach()


def test_the_closed_form():
    x, w = torch.tensor([16.0, 1.0, 0.0, 4.0]), torch.tensor([0.25, 4.0, 1.0, 0.0])
    assert smoothing_scales(x, w, 0.5).tolist() == [8.0, 0.5, 1.0, 1.0]
    assert smoothing_scales(x, w, 1.0).tolist() == [16.0, 1.0, 1.0, 1.0]
    assert smoothing_scales(x, w, 0.0).tolist() == [4.0, 0.25, 1.0, 1.0]


def test_without_quantizers_it_is_the_network(family, head, network, tokens, output_of):
    model = adapt(network(family, head))
    before = copy.deepcopy(model.module.state_dict())
    expected = output_of(model.module, tokens(padding="right"))
    smoothed = create("smoothquant", {}).convert(model, SPEC, "w32a32", iter(batches(tokens)))
    torch.testing.assert_close(output_of(smoothed, tokens(padding="right")), expected, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(before[key], new) for key, new in model.module.state_dict().items())
    assert any(not torch.equal(before[key], new) for key, new in smoothed.state_dict().items())


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_what_is_level_at_either_end_and_equal_in_the_middle(family, strength, network, tokens):
    model = create("smoothquant", {"strength": strength}).smoothed(adapt(network(family)), batches(tokens))
    for scaling in scalings(model):
        site = model.sites[scaling.input]
        x = scaling.largest(channel_maxima(model, [site], batches(tokens))[site.name])
        w = weights_of(model, scaling)
        level = {0.0: w, 0.5: x / w, 1.0: x}[strength]
        torch.testing.assert_close(level, torch.ones_like(level), rtol=1e-4, atol=0)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_planted_outliers_vanish_at_every_strength(family, strength, network, tokens):
    config, method = PlantConfig(channels=3, factor=64.0), create("smoothquant", {"strength": strength})
    plain, planted = adapt(network(family)), adapt(network(family))
    plant_outliers(planted, config)
    expected, found = (method.alphas(model, batches(tokens)) for model in (plain, planted))
    for scaling, alpha in expected.items():
        torch.testing.assert_close(found[scaling] * planted_scales(scaling, config), alpha, rtol=1e-5, atol=0)


def test_planted_outliers_cost_nothing_once_smoothed(network, tokens, output_of):
    model = adapt(network("gpt2"))
    exact = output_of(model.module, tokens())
    plant_outliers(model, PlantConfig(channels=2, factor=256.0))
    errors = [
        (output_of(create(name, {}).convert(model, SPEC, "w8a8", batches(tokens)), tokens()) - exact).square().mean()
        for name in ("vanilla", "smoothquant")
    ]
    assert errors[1] < 0.1 * errors[0]


def test_roles_do_not_depend_on_their_order(network, tokens):
    model = adapt(network("llama"))
    roles = ("ffn_norm", "up", "value", "attention_norm")
    one, other = (
        create("smoothquant", {"roles": order}).alphas(model, batches(tokens)) for order in (roles, roles[::-1])
    )
    assert {scaling.role for scaling in one} == set(roles)
    assert all(torch.equal(one[scaling], other[scaling]) for scaling in one)


def test_beside_a_gated_attention_the_norm_that_the_gate_reads_is_left_alone(network, tokens):
    model = adapt(network("opt"))
    create("gated_attention", {}).prepare(model, Context(8, pretrained=False))
    found = create("smoothquant", {}).alphas(model, batches(tokens))
    assert {scaling.role for scaling in found} == {"ffn_norm"}


def test_channels_without_a_signal_keep_the_scale_one(network, tokens):
    model = adapt(network("opt"))
    with torch.no_grad():
        model.module.model.decoder.layers[0].fc1.weight[4] = 0
        model.module.model.decoder.layers[0].fc1.bias[4] = -1  # dead behind ReLU
    first, *_ = create("smoothquant", {"roles": ("ffn_hidden",)}).alphas(model, batches(tokens)).values()
    assert first[4] == 1 and bool(torch.isfinite(first).all())


def test_it_acts_in_evaluation_only_and_shows_plain_quantization():
    assert not acts_in_training(validate("smoothquant", {}))
    assert create("smoothquant", {}).shows_ptq


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strength": 1.5}, "method.strength"),
        ({"roles": ("norm",)}, "method.roles"),
        ({"roles": ()}, "method.roles"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(UserError, match=message):
        validate("smoothquant", settings)


def test_bad_data_and_roles(network, tokens):
    model = adapt(network("bert"))
    with pytest.raises(UserError, match="'up' does not fold into this bert network"):
        create("smoothquant", {"roles": ("up",)}).convert(model, SPEC, "w8a8", batches(tokens))
    with pytest.raises(UserError, match="no calibration batches"):
        create("smoothquant", {}).convert(model, SPEC, "w8a8", [])
