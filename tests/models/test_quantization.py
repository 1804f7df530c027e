"""Quantizers at sites: where they stand, what they leave alone, and what they refuse."""

from __future__ import annotations

import copy

import pytest
import torch

from qexp.conf.errors import UserError
from qexp.conf.schema import CalibrationConfig, QuantConfig, QuantizerConfig
from qexp.kernels.quantize import fake_quantize
from qexp.kernels.quantizers import Quantizer
from qexp.models.adapt import adapt
from qexp.models.attachment import INPUT, OUTPUT, WEIGHT, quantizer_at
from qexp.models.quantization import calibrate, choose_sites, parse_bits, place_quantizers, quantize_model


def spec(**changes):
    return QuantConfig(name="test", **changes)


def quantizers_of(network):
    return [module for module in network.modules() if isinstance(module, Quantizer)]


def test_bits_are_parsed():
    assert parse_bits("w8a6") == (8, 6) and parse_bits("w32a16") == (32, 16)


@pytest.mark.parametrize("name", ["8", "w8", "w1a8", "w8a17", "w8a8.integer", ""])
def test_bad_bits_are_refused(name):
    with pytest.raises(UserError, match="w8a8"):
        parse_bits(name)


@pytest.mark.parametrize("changes", [{"roles": ()}, {"bits": ("w32a32",)}, {"exclude": ("all",)}])
def test_nothing_quantized_is_the_float_model_bit_for_bit(family, changes, network, tokens, output_of):
    adapted = adapt(network(family))
    bits = changes.get("bits", ("w8a8",))[0]
    quantized = quantize_model(adapted, spec(**changes), bits, [])
    assert torch.equal(output_of(quantized, tokens()), output_of(adapted.module, tokens()))


def test_every_site_gets_its_quantizer(family, head, network, tokens, output_of):
    adapted = adapt(network(family, head))
    quantized = quantize_model(adapted, spec(), "w8a8", [tokens()])
    attribute = {"weight": WEIGHT, "input": INPUT, "output": OUTPUT}
    for site in adapted.sites:
        quantizer = quantized.get_submodule(f"{site.module}.{attribute[site.kind]}")
        assert quantizer.bits == 8 and quantizer.mode == "quantize" and quantizer.granularity == "per_tensor"
        assert quantizer.symmetric == (site.kind == "weight")
    assert len(quantizers_of(quantized)) == len(adapted.sites)
    assert not quantized.training
    assert not torch.equal(output_of(quantized, tokens()), output_of(adapted.module, tokens()))


def test_every_site_lies_on_its_grid(family, network, tokens):
    """At most 2^4 values, each scale * integer, at every weight and behind every activation quantizer."""
    adapted = adapt(network(family))
    quantized = quantize_model(adapted, spec(), "w4a4", [tokens()])
    seen = {}
    for site in adapted.sites.activations():
        name = f"{site.module}.{INPUT if site.kind == 'input' else OUTPUT}"
        quantized.get_submodule(name).register_forward_hook(lambda _, __, out, key=site.name: seen.update({key: out}))
    with torch.no_grad():
        quantized(**tokens(seed=1))
    for site in adapted.sites.weights():
        seen[site.name] = quantized.get_submodule(site.module).weight
    assert set(seen) == {site.name for site in adapted.sites}
    assert all(len(values.unique()) <= 16 for values in seen.values())


def test_sixteen_bits_are_close_to_float(family, head, network, tokens, output_of):
    adapted = adapt(network(family, head))
    quantized = quantize_model(adapted, spec(), "w16a16", [tokens()])
    expected, got = output_of(adapted.module, tokens()), output_of(quantized, tokens())
    # some 50 sites, each off by at most range / 2^17, through weights that amplify by less than 10
    assert (got - expected).abs().max() < 50 * 10 * 2**-17 * expected.abs().max()


def test_the_model_itself_stays_as_it_is(family, network, tokens, output_of):
    adapted = adapt(network(family))
    before, expected = copy.deepcopy(adapted.module.state_dict()), output_of(adapted.module, tokens())
    quantize_model(adapted, spec(), "w2a2", [tokens()])
    after = adapted.module.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[key], before[key]) for key in before)
    assert torch.equal(output_of(adapted.module, tokens()), expected)


def test_a_tied_head_keeps_the_float_weight(family, network, tokens):
    adapted = adapt(network(family))
    head = adapted.module.get_output_embeddings()
    assert head.weight is adapted.module.get_input_embeddings().weight
    quantized = quantize_model(adapted, spec(), "w4a8", [tokens()])
    assert torch.equal(quantized.get_output_embeddings().weight, head.weight)
    table = quantized.get_input_embeddings().weight
    assert len(table.unique()) <= 16 and not torch.equal(table, head.weight)


def test_live_placement_trains_the_float_weight(family, network, tokens):
    """Quantization-aware training needs weights that are quantized in each forward pass and get gradients."""
    adapted = adapt(network(family))
    placed = place_quantizers(adapted.module, adapted.sites, spec(), "w8a8")
    assert list(placed) == [site.name for site in adapted.sites]
    assert all(quantizer.mode == "off" for quantizer in placed.values())
    calibrate(adapted.module, placed, [tokens()])
    adapted.module.train()(**tokens(), labels=tokens()["input_ids"]).loss.backward()
    for site in adapted.sites.weights():
        original = adapted.module.get_submodule(site.module).parametrizations.weight.original
        assert original.grad is not None and torch.isfinite(original.grad).all()
    head = adapted.module.get_output_embeddings()
    assert head.weight is adapted.module.get_input_embeddings().parametrizations.weight.original


def test_weights_and_activations_can_be_left_in_float(network, tokens):
    adapted = adapt(network("opt"))
    only_weights = quantize_model(adapted, spec(), "w8a32", [])
    assert len(quantizers_of(only_weights)) == len(adapted.sites.weights())
    only_activations = quantize_model(adapted, spec(), "w32a8", [tokens()])
    assert len(quantizers_of(only_activations)) == len(adapted.sites.activations())


def test_roles_and_exclusions_choose_sites(network):
    sites = adapt(network("gpt2")).sites
    chosen = choose_sites(sites, spec(roles=("qkv", "ffn_output", "final_norm"), exclude=("ffn_output",)))
    assert [site.name for site in chosen] == ["layers.0.qkv", "layers.1.qkv", "final_norm"]


def test_an_unknown_role_offers_the_nearest(network, tokens):
    with pytest.raises(UserError, match="'fnn_output'.*ffn_output"):
        quantize_model(adapt(network("bert")), spec(roles=("fnn_output",)), "w8a8", [tokens()])
    with pytest.raises(UserError, match="'qkv'"):
        quantize_model(adapt(network("bert")), spec(exclude=("qkv",)), "w8a8", [tokens()])


def test_calibration_without_batches_is_refused(network):
    with pytest.raises(UserError, match="no calibration batches"):
        quantize_model(adapt(network("bert")), spec(), "w8a8", [])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_nan_or_infinity_names_the_site(value, network, tokens):
    model = network("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = value
    with pytest.raises(UserError, match="layers.1.up_weight"):
        quantize_model(adapt(model), spec(), "w8a8", [tokens()])
    with pytest.raises(UserError, match=r"site layers.1.up\b"):
        quantize_model(adapt(model), spec(), "w32a8", [tokens()])


def test_quantizers_are_on_while_ranges_are_estimated(network, tokens):
    """The range of a late site with W2A2 before it is not the range that the float network would give it."""
    adapted = adapt(network("bert"))
    alone = quantize_model(adapted, spec(roles=("ffn_residual",)), "w32a8", [tokens()])
    together = quantize_model(adapted, spec(), "w2a8", [tokens()])
    name = f"{adapted.sites['layers.1.ffn_residual'].module}.{INPUT}"
    assert not torch.equal(alone.get_submodule(name).scale, together.get_submodule(name).scale)


def test_per_channel_weights_follow_the_output_axis(network, tokens):
    per_channel = QuantizerConfig(symmetric=True, granularity="per_channel")
    adapted = adapt(network("gpt2"))
    quantized = quantize_model(adapted, spec(weights=per_channel), "w8a8", [tokens()])
    shapes = {
        site.name: tuple(quantized.get_submodule(f"{site.module}.{WEIGHT}").scale.shape)
        for site in adapted.sites.weights()
    }
    assert shapes["layers.0.qkv_weight"] == (1, 48)  # Conv1D: [in, out]
    assert shapes["embeddings.token_weight"] == shapes["layers.0.ffn_norm_weight"] == ()
    linear = quantize_model(adapt(network("opt")), spec(weights=per_channel), "w8a8", [tokens()])
    assert linear.model.decoder.layers[0].fc1.weight_quantizer.scale.shape == (24, 1)


@pytest.mark.parametrize("granularity", ["per_channel", "per_token"])
def test_finer_activation_ranges_fit_better(family, granularity, network, tokens, output_of):
    adapted = adapt(network(family))
    finer = QuantizerConfig(symmetric=False, granularity=granularity)
    batches = [tokens(), tokens(length=7, seed=1)]  # scores change their width between batches
    expected, errors = output_of(adapted.module, tokens()), []
    for each in (QuantizerConfig(symmetric=False), finer):
        quantized = quantize_model(adapted, spec(activations=each), "w32a5", batches)
        errors.append((output_of(quantized, tokens()) - expected).square().mean())
    assert errors[1] < errors[0]


@pytest.mark.parametrize("known", [False, True])
def test_a_wrong_step_is_the_weights_own_times_the_ratio(known, family, network, tokens):
    model = adapt(network(family))
    right = quantize_model(model, spec(), "w4a8", [tokens()])
    grids = {s.name: quantizer_at(right, s).qparams for s in model.sites.weights()} if known else {}
    wrong = quantize_model(model, spec(weight_step_ratio=0.75), "w4a8", [tokens()], grids)
    for site in model.sites.weights():
        own, other = (quantizer_at(one, site).qparams for one in (right, wrong))
        assert torch.equal(other.scale, own.scale * 0.75)
        weight, baked = (one.get_submodule(site.module).weight for one in (model.module, wrong))
        assert torch.equal(baked, fake_quantize(weight.detach(), other))


def test_weights_per_token_are_refused(network, tokens):
    per_token = QuantizerConfig(symmetric=True, granularity="per_token")
    with pytest.raises(UserError, match="weights cannot be quantized per_token"):
        quantize_model(adapt(network("bert")), spec(weights=per_token), "w8a8", [tokens()])


@pytest.mark.parametrize("kind", ["minmax", "running_minmax", "percentile", "mse"])
def test_every_range_estimator_runs_at_every_site(kind, network, tokens, output_of):
    both = {"weights": QuantizerConfig(symmetric=True, range=kind)}
    both["activations"] = QuantizerConfig(symmetric=False, range=kind)
    adapted = adapt(network("llama"))
    quantized = quantize_model(adapted, spec(**both, calibration=CalibrationConfig()), "w8a8", [tokens()])
    assert torch.isfinite(output_of(quantized, tokens())).all()


def test_a_deep_copy_and_labels_in_batches_do_no_harm(network, tokens, output_of):
    adapted = adapt(network("bert"))
    quantized = quantize_model(adapted, spec(), "w8a8", [{**tokens(), "labels": tokens()["input_ids"]}])
    expected = output_of(quantized, tokens())
    twin = copy.deepcopy(quantized)
    for quantizer in quantizers_of(twin):
        quantizer.mode = "off"
    assert torch.equal(output_of(quantized, tokens()), expected)
    assert not torch.equal(output_of(twin, tokens()), expected)
