"""Planted outliers: the function stays, the outliers are there, and the known answer takes them away."""

from __future__ import annotations

import copy

import pytest
import torch

from qexp.conf.errors import UserError
from qexp.conf.schema import PlantConfig
from qexp.models.adapt import adapt
from qexp.models.capture import capture
from qexp.models.folding import fold, scalings
from qexp.models.planting import plant_outliers, planted_scales


@pytest.mark.parametrize(("factor", "tolerance"), [(64.0, 0.0), (50.0, 1e-5)])
def test_the_outputs_stay_bit_for_bit_where_the_factor_is_a_power_of_two(
    family, head, network, tokens, output_of, factor, tolerance
):
    model = adapt(network(family, head))
    expected = output_of(model.module, tokens(padding="right"))
    plant_outliers(model, PlantConfig(channels=3, factor=factor))
    found = output_of(model.module, tokens(padding="right"))
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


def test_the_inverse_scales_give_back_every_bit_of_the_network(family, network):
    model, config = adapt(network(family)), PlantConfig(channels=3, factor=64.0)
    before = copy.deepcopy(model.module.state_dict())
    plant_outliers(model, config)
    assert any(not torch.equal(before[key], new) for key, new in model.module.state_dict().items())
    for scaling in scalings(model):
        fold(model.module, scaling, 1 / planted_scales(scaling, config))
    assert all(torch.equal(before[key], new) for key, new in model.module.state_dict().items())


def test_the_chosen_channels_are_larger_in_every_layer(family, network, tokens):
    model, config = adapt(network(family)), PlantConfig(channels=2, factor=8.0)
    sites = [model.sites[scaling.input] for scaling in scalings(model)]
    with torch.no_grad(), capture(model.module, sites) as caught:
        model.module(**tokens())
        before = dict(caught)
        plant_outliers(model, config)
        model.module(**tokens())
    for scaling in scalings(model):
        scales = planted_scales(scaling, config)
        assert scales.tolist().count(8.0) == 2 and scales.tolist().count(1.0) == scaling.channels - 2
        assert torch.equal(caught[scaling.input], before[scaling.input] * scaling.at_input(scales))


def test_the_channels_are_the_seeds_and_the_same_in_every_layer(network):
    first, *others = (
        planted_scales(one, PlantConfig(channels=4, factor=2.0, seed=1)) for one in scalings(adapt(network("gpt2")))
    )
    assert others and all(torch.equal(first, other) for other in others)
    scaling = scalings(adapt(network("gpt2")))[0]
    assert not torch.equal(first, planted_scales(scaling, PlantConfig(channels=4, factor=2.0, seed=2)))


def test_roles_can_be_named(network):
    model = adapt(network("llama"))
    before = copy.deepcopy(model.module.state_dict())
    plant_outliers(model, PlantConfig(channels=1, factor=2.0, roles=("up",)))
    changed = {key for key, new in model.module.state_dict().items() if not torch.equal(before[key], new)}
    assert {key.split(".")[-2] for key in changed} == {"up_proj", "down_proj"}


def test_what_cannot_be_planted_is_told(network):
    with pytest.raises(UserError, match="channels=17: layers.0.attention_norm has 16 channels"):
        plant_outliers(adapt(network("gpt2")), PlantConfig(channels=17, factor=2.0))
    with pytest.raises(UserError, match="'ffn_norm' does not fold into this bert network"):
        plant_outliers(adapt(network("bert")), PlantConfig(channels=1, factor=2.0, roles=("ffn_norm",)))
