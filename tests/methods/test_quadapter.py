"""Quadapter: the laws of its scales, its phases, and what it must leave as it is."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from qexp.conf.errors import UserError
from qexp.conf.schema import PlantConfig, QuantConfig
from qexp.methods.base import Context
from qexp.methods.registry import create
from qexp.models import qat, scales
from qexp.models.adapt import adapt
from qexp.models.blocks import block_paths
from qexp.models.folding import scalings
from qexp.models.planting import plant_outliers
from qexp.models.quantization import quantize_model

SPEC = QuantConfig("w8a8")
PRODUCTS = replace(
    SPEC, exclude=("attention_scores", "attention_output", "attention_residual", "ffn_output", "ffn_residual")
)


def batches(tokens):
    return [tokens(seed=seed) for seed in (0, 1)]


def prepared(network, tokens, spec=SPEC, calibrate=True, **settings):
    model = network if hasattr(network, "sites") else adapt(network)
    method = create("quadapter", {"bits": "w8a8", "steps": 8, **settings})
    surgery = method.prepare(model, Context(8, pretrained=True, quant=spec, max_steps=10))
    told = method.calibrate(model, batches(tokens)) if calibrate else {}
    return model, method, surgery, told


def set_scales(model, spread=1.0):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in scales.log_scales(model).values:
            value.copy_(spread * torch.randn(value.shape, generator=generator))


def test_scales_without_quantizers_change_nothing(family, head, network, tokens, output_of):
    model, _, _, _ = prepared(network(family, head), tokens, calibrate=False)
    expected = output_of(adapt(network(family, head)).module, tokens())
    set_scales(model)
    assert torch.allclose(output_of(model.module, tokens()), expected, atol=1e-4)


def test_the_first_phase_tells_of_every_block(network, tokens):
    model, method, _, _ = prepared(network("gpt2"), tokens, calibrate=False)
    told = []
    method.calibrate(model, batches(tokens), lambda done, total: told.append((done, total)))
    assert told == [(layer + 1, len(block_paths(model))) for layer in range(len(block_paths(model)))]


def test_at_alpha_one_it_is_post_training_quantization(family, network, tokens, output_of):
    model, method, _, _ = prepared(network(family), tokens, blockwise=False)
    plain = quantize_model(adapt(network(family)), SPEC, "w8a8", batches(tokens))
    expected = output_of(plain, tokens())
    assert torch.equal(output_of(model.module, tokens()), expected)
    method.finish(model)
    assert torch.equal(output_of(method.convert(model, SPEC, "w8a8", batches(tokens)), tokens()), expected)
    assert torch.equal(output_of(quantize_model(model, SPEC, "w8a8", batches(tokens)), tokens()), expected)


def test_what_is_trained_is_what_is_converted(family, network, tokens, output_of):
    model, method, _, _ = prepared(network(family), tokens, blockwise=False)
    set_scales(model)
    method._start(model, batches(tokens))
    expected = output_of(model.module, tokens())
    method.finish(model)
    assert torch.equal(output_of(method.convert(model, SPEC, "w8a8", []), tokens()), expected)


def test_only_scales_and_ranges_are_trained_and_weights_stay(family, network, tokens, output_of):
    before = copy.deepcopy(adapt(network(family)).module.state_dict())
    model, method, _, _ = prepared(network(family), tokens)
    learnt = [name for name, parameter in model.module.named_parameters() if parameter.requires_grad]
    assert learnt and all(scales.LOG_SCALES in name or ".trained_" in name for name in learnt)
    counted = sum(p.numel() for name, p in model.module.named_parameters() if scales.LOG_SCALES in name)
    assert counted == sum(one.channels for one in scalings(model))
    optimizer = torch.optim.Adam([p for p in model.module.parameters() if p.requires_grad], lr=1e-2)
    next(iter(model.module(**tokens()).values())).square().mean().backward()
    optimizer.step()
    method.after_step(model, 1)
    method.finish(model)
    method.convert(model, SPEC, "w8a8", batches(tokens))
    after = model.module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert torch.equal(output_of(model.module, tokens()), output_of(adapt(network(family)).module, tokens()))
    method.strip(model)
    assert model.module.state_dict().keys() == before.keys()


def test_the_paper_s_two_places_have_two_scales_a_channel_and_block(network, tokens):
    model, _, surgery, _ = prepared(network("gpt2"), tokens, calibrate=False)
    assert [one.role for one in scalings(model)] == ["attention_norm", "ffn_norm"] * 2
    width = model.module.config.n_embd
    assert sum(value.numel() for value in scales.log_scales(model).values) == 2 * width * len(block_paths(model))
    assert sum("scales, folded" in change.change for change in surgery.replaced) == 4


@pytest.mark.parametrize("stream", ["float", "quantized"])
def test_the_first_phase_never_makes_a_block_worse(family, stream, network, tokens):
    _, _, _, told = prepared(network(family), tokens, input=stream)
    assert len(told["block_errors"]) == 2
    assert all(one["after"] <= one["before"] for one in told["block_errors"])


def test_blocks_are_independent_where_they_read_the_float_stream(network, tokens):
    model, _, _, _ = prepared(network("llama"), tokens, input="float")
    other, method, _, _ = prepared(network("llama"), tokens, calibrate=False, input="float")
    method._start(other, batches(tokens))
    method._follow(other, True)
    method._by_layer = lambda _: [[], [scales.log_scales(other).values[2], scales.log_scales(other).values[3]]]
    from qexp.methods.quadapter.blockwise import fit_blocks

    fit_blocks(other, batches(tokens), method._by_layer(other), method.settings)
    for index in (2, 3):
        assert torch.equal(scales.log_scales(model).values[index], scales.log_scales(other).values[index])
    assert not scales.log_scales(other).values[0].any()


@pytest.mark.parametrize("name", ["gpt2", "opt", "llama"])
def test_planted_outliers_are_recovered(name, network, tokens, output_of):
    def error(network_, reference):
        return float((output_of(network_, tokens()) - reference).square().mean())

    clean = adapt(network(name))
    expected = output_of(clean.module, tokens())
    unharmed = error(quantize_model(clean, PRODUCTS, "w8a8", batches(tokens)), expected)
    planted = adapt(network(name))
    plant_outliers(planted, PlantConfig(channels=1, factor=256.0))
    harmed = error(quantize_model(planted, PRODUCTS, "w8a8", batches(tokens)), expected)
    model, method, _, _ = prepared(planted, tokens, PRODUCTS, steps=200, learning_rate=0.1)
    method.finish(model)
    healed = error(method.convert(model, PRODUCTS, "w8a8", batches(tokens)), expected)
    assert harmed > 20 * unharmed
    assert healed < 4 * unharmed + 0.02 * harmed


def test_ranges_only_learns_no_scales(network, tokens):
    model, _, _, _ = prepared(network("gpt2"), tokens, learn_scales=False)
    assert len(scales.log_scales(model).values) == 0
    assert any(parameter.requires_grad for parameter in model.module.parameters())


def test_a_saved_state_continues(network, tokens, output_of):
    model, _, _, _ = prepared(network("gpt2"), tokens)
    other, again, _, _ = prepared(network("gpt2"), tokens, calibrate=False)
    other.module.load_state_dict(model.module.state_dict())
    assert torch.equal(output_of(other.module.eval(), tokens()), output_of(model.module.eval(), tokens()))
    assert again.analyse(other, [], {"block_errors": []})["scales"]


def test_a_scale_at_its_bound_is_named(network, tokens):
    model, method, _, _ = prepared(network("gpt2"), tokens, max_scale=2.0, blockwise=False)
    with torch.no_grad():
        scales.log_scales(model).values[1][3] = 0.7
    with pytest.raises(UserError, match=r"layers.0.ffn_norm reached method.max_scale=2"):
        method.after_step(model, 1)


def test_a_place_that_does_not_fold_is_refused_with_its_reason(network, tokens):
    with pytest.raises(UserError, match="residual stream"):
        prepared(network("bert"), tokens, calibrate=False, roles=("attention_norm",))
    with pytest.raises(UserError, match="activation function"):
        prepared(network("gpt2"), tokens, calibrate=False, roles=("ffn_hidden",))


def test_quantizers_see_the_weights_that_folding_makes(network, tokens):
    model, method, _, _ = prepared(network("llama"), tokens, calibrate=False, roles=("up", "value", "ffn_norm"))
    set_scales(model)
    method._start(model, batches(tokens))
    folded = method._folded(model)
    for site, quantizer in qat.trained_quantizers(model):
        if site.kind == "weight":
            seen = []
            handle = quantizer.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].detach()))
            model.module(**tokens())
            handle.remove()
            assert torch.equal(seen[0], folded.module.get_submodule(site.module).weight), site.name
