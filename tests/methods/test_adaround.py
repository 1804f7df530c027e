"""AdaRound on networks: which weights move, by how much, and what the layers then do."""

from __future__ import annotations

import copy

import pytest
import torch

from qexp.conf.errors import UserError
from qexp.conf.schema import QuantConfig, QuantizerConfig
from qexp.kernels.adaround import Recipe
from qexp.methods.adaround.layers import Stream, out_in, round_layers
from qexp.methods.registry import acts_in_training, create, validate
from qexp.models.adapt import adapt
from qexp.models.attachment import quantizer_at
from qexp.models.quantization import quantize_model, run_body

FEW = {"steps": 15, "batch_rows": 32, "learning_rate": 0.1}


def spec(**changes):
    return QuantConfig("test", **changes)


def batches_of(tokens):
    return [tokens(rows=6, length=12, padding="right", seed=seed) for seed in range(2)]


def converted(model, tokens, bits="w4a8", quant=None, **settings):
    method = create("adaround", {**FEW, **settings})
    return method.convert(model, quant or spec(), bits, iter(batches_of(tokens)))


def test_weights_are_the_floor_or_one_step_more_on_the_grid_of_plain_quantization(family, network, tokens):
    model = adapt(network(family))
    found, plain = converted(model, tokens), quantize_model(model, spec(), "w4a8", batches_of(tokens))
    linear, moved = {info.weight for info in model.linears}, 0
    for site in model.sites.weights():
        p, q = quantizer_at(found, site).qparams, quantizer_at(plain, site).qparams
        assert torch.equal(p.scale, q.scale) and torch.equal(p.zero_point, q.zero_point) and p.qmin == q.qmin
        weight, nearest = out_in(found, site), out_in(plain, site)
        if site.name in linear:
            above = (weight / p.scale).round() - (out_in(model.module, site) / p.scale).floor().clamp(p.low, p.high)
            assert set(above.unique().tolist()) <= {0.0, 1.0}
            moved += int((weight != nearest).sum())
        else:
            assert torch.equal(weight, nearest)
    assert moved > 0


def test_activations_are_calibrated_on_the_rounded_network(network, tokens):
    model = adapt(network("bert"))
    found, plain = converted(model, tokens), quantize_model(model, spec(), "w4a8", batches_of(tokens))
    last = model.sites["layers.1.ffn_norm"]
    assert all(quantizer_at(found, site).mode == "quantize" for site in model.sites.activations())
    assert not torch.equal(quantizer_at(found, last).qparams.scale, quantizer_at(plain, last).qparams.scale)


def test_no_layer_is_worse_than_rounded_to_nearest_and_at_four_bits_they_are_better(family, network, tokens):
    found = round_layers(adapt(network(family)), spec(), "w4a8", batches_of(tokens), Recipe(60, 32, 0.1, 0.01), False)
    assert all(layer.error <= layer.nearest_error for layer in found.layers.values())
    total, nearest = (sum(getattr(x, name) for x in found.layers.values()) for name in ("error", "nearest_error"))
    assert total < 0.8 * nearest


def test_the_output_is_nearer_to_the_float_networks(network, tokens, output_of):
    model = adapt(network("gpt2"))
    expected, errors = output_of(model.module, tokens(seed=9)), []
    networks = quantize_model(model, spec(), "w4a32", []), converted(model, tokens, "w4a32", steps=80)
    for quantized in networks:
        errors.append(float((output_of(quantized, tokens(seed=9)) - expected).square().mean()))
    assert errors[1] < errors[0]


@pytest.mark.parametrize("name", ["gpt2", "opt"])
def test_per_channel_grids_too(name, network, tokens):
    model, quant = adapt(network(name)), spec(weights=QuantizerConfig(symmetric=True, granularity="per_channel"))
    found = round_layers(model, quant, "w4a8", batches_of(tokens), Recipe(15, 32, 0.1, 0.01), True)
    network = converted(model, tokens, quant=quant)
    for info in model.linears:
        site = model.sites[info.weight]
        rows = quantizer_at(network, site).qparams.scale.shape[site.channel_axis]
        assert rows == out_in(network, site).shape[0] == found.layers[site.name].weight.shape[0]
        assert torch.equal(out_in(network, site), found.layers[site.name].weight)


def test_a_stream_gives_what_each_layer_reads_at_real_tokens(family, network, tokens):
    model, batches, read = adapt(network(family)), batches_of(tokens), {}
    stream = Stream(model.module, model, batches)
    found = {info.name: stream.inputs(info) for info in model.linears}
    for info in model.linears:
        layer = model.module.get_submodule(info.module)
        layer.register_forward_pre_hook(lambda _, args, name=info.name: read.setdefault(name, []).append(args[0]))
    with torch.no_grad():
        for batch in batches:
            run_body(model.module, batch)
    masks = [batch["attention_mask"].bool() for batch in batches]
    for name, rows in found.items():
        assert torch.equal(rows, torch.cat([x[mask] for x, mask in zip(read[name], masks, strict=True)])), name


def test_layers_outside_of_the_blocks_are_rounded_too(network, tokens):
    model = adapt(network("opt", word_embed_proj_dim=8, do_layer_norm_before=False))
    found = round_layers(model, spec(), "w4a8", batches_of(tokens), Recipe(15, 32, 0.1, 0.01), True)
    assert list(found.layers) == [info.weight for info in model.linears]
    assert {"embeddings.projection_weight", "final_projection_weight"} <= set(found.layers)


@pytest.mark.parametrize("asymmetric", [True, False])
def test_asymmetric_layers_read_what_the_rounded_ones_make(asymmetric, network, tokens):
    model = adapt(network("bert"))
    found = round_layers(model, spec(), "w2a8", batches_of(tokens), Recipe(15, 32, 0.1, 0.01), asymmetric)
    other = round_layers(model, spec(), "w2a8", batches_of(tokens), Recipe(15, 32, 0.1, 0.01), True)
    same = found.layers["layers.1.ffn_output_weight"].nearest_error
    assert (same == other.layers["layers.1.ffn_output_weight"].nearest_error) == asymmetric


@pytest.mark.parametrize("bits", ["w32a8", "w4a8"])
def test_what_is_not_quantized_is_not_rounded(bits, network, tokens, output_of):
    model = adapt(network("bert"))
    roles = tuple(dict.fromkeys(model.sites[info.weight].role for info in model.linears))
    quant = spec(exclude=roles if bits == "w4a8" else ())
    plain = quantize_model(model, quant, bits, batches_of(tokens))
    assert torch.equal(output_of(converted(model, tokens, bits, quant), tokens()), output_of(plain, tokens()))


def test_the_model_itself_stays_as_it_is_and_a_seed_decides_all(network, tokens, output_of):
    model = adapt(network("llama"))
    before = copy.deepcopy(model.module.state_dict())
    first, again = (output_of(converted(model, tokens), tokens()) for _ in range(2))
    assert torch.equal(first, again)
    after = model.module.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[key], before[key]) for key in before)


def test_it_acts_only_in_evaluation_beside_plain_quantization():
    assert not acts_in_training(validate("adaround", {}))
    assert create("adaround", {}).shows_ptq


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 0}, "method.steps.*greater than or equal to 1"),
        ({"batch_rows": 0}, "method.batch_rows.*greater than or equal to 1"),
        ({"learning_rate": 0.0}, "method.learning_rate.*greater than 0"),
        ({"regularization": -1.0}, "method.regularization.*greater than or equal to 0"),
    ],
)
def test_what_is_refused_says_what_would_be_right(settings, words):
    with pytest.raises(UserError, match=words):
        validate("adaround", settings)
