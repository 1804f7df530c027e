"""Quantization-aware training and learnt steps: what is trained is what is converted, and nothing else changes."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from qexp.conf.errors import UserError
from qexp.conf.schema import QuantConfig, QuantizerConfig
from qexp.kernels.quantize import fake_quantize
from qexp.kernels.trained_quantizers import LearntRange, RunningRange
from qexp.methods.base import Context
from qexp.methods.registry import create, quantizes_training
from qexp.models import qat
from qexp.models.adapt import adapt
from qexp.models.quantization import choose_sites, quantize_model

METHODS = ("qat", "lsq")
SPEC = QuantConfig("w8a8")


def batches(tokens):
    return [{key: value for key, value in tokens(padding="right").items() if key != "labels"}]


def begun(network, tokens, name="qat", bits="w8a8", spec=SPEC, **settings):
    model, method = adapt(network), create(name, {"bits": bits, **settings})
    surgery = method.prepare(model, Context(8, pretrained=True, quant=spec, max_steps=10))
    method.calibrate(model, batches(tokens))
    return model, method, surgery


def loss(network, tokens):
    output = network(**tokens())
    return next(iter(output.values())).square().mean()


def trained(model, method, tokens, steps=2, lr=1e-3):
    model.module.train()
    optimizer = torch.optim.SGD(model.module.parameters(), lr=lr)
    for step in range(1, steps + 1):
        loss(model.module, tokens).backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(model, step)
    model.module.eval()
    return model


@pytest.mark.parametrize("name", METHODS)
def test_every_site_of_every_family_is_quantized_and_float_comes_back(name, family, head, network, tokens, output_of):
    before = output_of(adapt(network(family, head)).module, tokens())
    model, method, surgery = begun(network(family, head), tokens, name)
    assert [change.site for change in surgery.replaced] == [site.name for site in choose_sites(model.sites, SPEC)]
    assert not torch.equal(output_of(model.module, tokens()), before)
    method.finish(model)
    assert torch.equal(output_of(model.module, tokens()), before)
    method.strip(model)
    assert not list(qat.trained_quantizers(model))
    assert model.module.state_dict().keys() == adapt(network(family, head)).module.state_dict().keys()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
def test_before_the_first_step_it_is_post_training_quantization(name, granularity, family, network, tokens, output_of):
    spec = replace(SPEC, weights=QuantizerConfig(symmetric=True, granularity=granularity))
    plain = quantize_model(adapt(network(family)), spec, "w8a8", batches(tokens))
    model, _, _ = begun(network(family), tokens, name, spec=spec)
    found = output_of(model.module.eval(), tokens())
    if name == "lsq":
        assert torch.equal(found, output_of(plain, tokens()))
    else:  # a running range keeps its ends, so that its step is one rounding away
        assert torch.allclose(found, output_of(plain, tokens()), atol=0.02)


@pytest.mark.parametrize("name", METHODS)
def test_the_converted_network_is_the_trained_one(name, family, network, tokens, output_of):
    model, method, _ = begun(network(family), tokens, name)
    trained(model, method, tokens)
    expected = output_of(model.module, tokens())
    method.finish(model)
    converted = method.convert(model, SPEC, "w8a8", batches(tokens))
    assert torch.equal(output_of(converted, tokens()), expected)
    assert not list(qat.trained_quantizers(replace(model, module=converted)))


@pytest.mark.parametrize("name", METHODS)
def test_other_bits_are_calibrated_anew(name, network, tokens, output_of):
    model, method, _ = begun(network("bert"), tokens, name)
    trained(model, method, tokens)
    method.finish(model)
    converted = method.convert(model, SPEC, "w4a8", batches(tokens))
    bare = replace(model, module=copy.deepcopy(model.module))
    method.strip(bare)
    assert torch.equal(
        output_of(converted, tokens()), output_of(quantize_model(bare, SPEC, "w4a8", batches(tokens)), tokens())
    )


@pytest.mark.parametrize("name", METHODS)
def test_a_saved_state_continues(name, network, tokens, output_of):
    model, method, _ = begun(network("llama"), tokens, name)
    trained(model, method, tokens)
    other, again = adapt(network("llama")), create(name, {"bits": "w8a8"})
    again.prepare(other, Context(8, pretrained=True, quant=SPEC))
    other.module.load_state_dict(model.module.state_dict())
    assert torch.equal(output_of(other.module.eval(), tokens()), output_of(model.module, tokens()))


@pytest.mark.parametrize("name", METHODS)
def test_sixteen_bits_train_as_floating_point_does(name, network, tokens, output_of):
    # Calibrated on the very batch, so that nothing is clamped.
    model, _, _ = begun(network("gpt2"), lambda **_: tokens(), name, bits="w16a16")
    plain = adapt(network("gpt2"))
    for one in (model, plain):
        loss(one.module.train(), tokens).backward()
    gradients = dict(plain.module.named_parameters())
    for key, parameter in model.module.named_parameters():
        if ".trained_" not in key:
            size = gradients[key].grad.abs().max().item()
            assert torch.allclose(parameter.grad, gradients[key].grad, atol=5e-3 * size + 1e-7), key


def test_weights_and_tied_heads_keep_their_parameters(network, tokens):
    model, _, _ = begun(network("gpt2"), tokens)
    assert model.module.lm_head.weight is model.module.transformer.wte.weight
    assert {key for key, _ in model.module.named_parameters()} == {
        key for key, _ in adapt(network("gpt2")).module.named_parameters()
    }


def test_running_ranges_stay_after_their_share_of_the_steps(network, tokens, output_of):
    model, method, _ = begun(network("bert"), tokens, freeze_after=0.2)
    moving = [q for _, q in qat.trained_quantizers(model) if isinstance(q, RunningRange)]
    method.after_step(model, 1)
    assert all(quantizer.moving for quantizer in moving)
    method.after_step(model, 2)
    before = [quantizer.qparams.scale for quantizer in moving]
    output_of(model.module.train(), tokens(seed=5))
    assert [quantizer.qparams.scale for quantizer in moving] == before


def test_fixed_ranges_are_the_calibrated_ones(network, tokens, output_of):
    model, method, _ = begun(network("bert"), tokens, ranges="fixed")
    before = {name: p.scale for name, p in qat.ranges(model).items()}
    trained(model, method, tokens)
    for site, quantizer in qat.trained_quantizers(model):
        assert site.kind == "weight" or torch.equal(quantizer.qparams.scale, before[site.name])


def test_lsq_learns_every_step_without_decay(network, tokens, output_of):
    model, method, _ = begun(network("opt"), tokens, "lsq")
    before = {site.name: quantizer.scale.item() for site, quantizer in qat.trained_quantizers(model)}
    trained(model, method, tokens, lr=1e-2)
    moved = [
        name for name, q in ((s.name, q) for s, q in qat.trained_quantizers(model)) if q.scale.item() != before[name]
    ]
    assert len(moved) > 0.9 * len(before)
    (rule,) = method.parameter_rules()
    learnt = [name for name, _ in model.module.named_parameters() if rule.match in name]
    offsets = sum(isinstance(q, LearntRange) and q.offset is not None for _, q in qat.trained_quantizers(model))
    assert len(learnt) == len(before) + offsets and rule.weight_decay == 0.0


def test_the_weight_in_use_lies_on_its_grid(network, tokens):
    model, _, _ = begun(network("llama"), tokens, bits="w4a8")
    site, quantizer = next((s, q) for s, q in qat.trained_quantizers(model) if s.role == "query_weight")
    weight, seen = model.module.get_submodule(site.module).weight.detach(), []
    quantizer.register_forward_hook(lambda _, __, y: seen.append(y.detach()))
    model.module(**tokens())
    assert torch.equal(seen[0], fake_quantize(weight, quantizer.qparams)) and len(seen[0].unique()) <= 16


def test_they_say_that_they_quantize_training():
    from qexp.conf.schema import MethodChoice

    assert quantizes_training([MethodChoice("vanilla"), MethodChoice("lsq")])
    assert not quantizes_training([MethodChoice("vanilla")])


def test_activations_per_token_have_no_range_to_train(network, tokens):
    spec = replace(SPEC, activations=QuantizerConfig(symmetric=True, granularity="per_token"))
    with pytest.raises(UserError, match="quant.activations.granularity=per_tensor"):
        begun(network("bert"), tokens, spec=spec)
