"""QAT with a kurtosis penalty: what it chooses, what it adds to the loss, and that it is QAT otherwise."""

from __future__ import annotations

import json

import pytest
import torch

from qexp.conf.errors import UserError
from qexp.conf.schema import QuantConfig
from qexp.kernels import reference
from qexp.methods.base import Context
from qexp.methods.registry import create
from qexp.models import qat
from qexp.models.adapt import adapt
from qexp.models.quantization import quantize_model
from qexp.models.weight_kurtosis import candidates, latent_weight, measure

SPEC = QuantConfig("w8a8")


def batches(tokens):
    return [{key: value for key, value in tokens(padding="right").items() if key != "labels"}]


def begun(network, tokens, name="kurtosis_qat", **settings):
    if name == "kurtosis_qat":
        settings = {"select": "all", **settings}
    model, method = adapt(network), create(name, {"bits": "w8a8", **settings})
    method.prepare(model, Context(8, pretrained=True, quant=SPEC, max_steps=10))
    before = method.begin(model)
    method.calibrate(model, batches(tokens))
    return model, method, before


def trained(model, method, tokens, steps=2, lr=1e-3):
    model.module.train()
    optimizer = torch.optim.Adam(model.module.parameters(), lr=lr)
    for step in range(1, steps + 1):
        output = model.module(**tokens())
        loss = next(iter(output.values())).square().mean() + method.extra_loss(model)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(model, step)
    model.module.eval()
    return model


@pytest.mark.parametrize("mode", ["avg", "sum", "max"])
def test_the_extra_loss_is_the_penalty_of_the_latent_weights(mode, family, network, tokens):
    model, method, _ = begun(network(family), tokens, mode=mode, weight=0.5, target=2.0)
    model.module(**tokens())
    squares = [
        (reference.kurtosis(latent_weight(model, site).flatten().tolist()) - 2.0) ** 2 for site in candidates(model)
    ]
    expected = {"avg": sum(squares) / len(squares), "sum": sum(squares), "max": max(squares)}[mode]
    assert method.extra_loss(model).item() == pytest.approx(0.5 * expected, rel=1e-4)


def test_only_chosen_tensors_get_a_gradient_of_the_penalty(network, tokens):
    model, method, before = begun(network("bert"), tokens, select="list", names=("*.query_weight", "*.key_weight"))
    method.extra_loss(model).backward()
    for site in candidates(model):
        chosen = site.role in ("query_weight", "key_weight")
        assert (latent_weight(model, site).grad is not None) == chosen == before["tensors"][site.name]["selected"]


def test_an_extreme_tensor_owns_the_penalty_until_a_rule_leaves_it_out(network, tokens):
    module = network("bert")
    with torch.no_grad():
        module.base_model.encoder.layer[1].output.dense.weight[0, 0] = 100.0
    model, method, before = begun(module, tokens)
    (name,) = (name for name, told in before["tensors"].items() if told["share"] > 0.99)
    _, selective, told = begun(module, tokens, select="three_sigma")
    assert not told["tensors"][name]["selected"] and sum(t["selected"] for t in told["tensors"].values()) > 10
    assert selective.extra_loss(model).item() < 1e-3 * method.extra_loss(model).item()


def test_no_weight_on_the_penalty_is_qat_bit_for_bit(family, network, tokens, output_of):
    with_penalty = trained(*begun(network(family), tokens, weight=0.0)[:2], tokens)
    plain = trained(*begun(network(family), tokens, "qat")[:2], tokens)
    assert torch.equal(output_of(with_penalty.module, tokens()), output_of(plain.module, tokens()))


def test_the_penalty_alone_draws_weights_to_its_target(network, tokens):
    model, method, before = begun(network("gpt2"), tokens)
    optimizer = torch.optim.Adam(model.module.parameters(), lr=1e-2)
    for _ in range(80):
        method.extra_loss(model).backward()
        optimizer.step()
        optimizer.zero_grad()
    found = method.analyse(model, [], before)
    assert found["kind"] == "weight_kurtosis" and json.loads(json.dumps(found)) == found
    assert all(abs(tensor["before"] - 1.8) > 0.3 for tensor in found["tensors"].values())
    assert all(abs(tensor["after"] - 1.8) < 0.1 for tensor in found["tensors"].values())


def test_without_quantizers_it_is_float_training_and_post_training_quantization(family, network, tokens, output_of):
    model, method, _ = begun(network(family), tokens, qat=False)
    assert not list(qat.trained_quantizers(model))
    assert torch.equal(output_of(model.module, tokens()), output_of(adapt(network(family)).module, tokens()))
    trained(model, method, tokens)
    method.finish(model)
    for bits in ("w8a8", "w4a8"):
        plain = quantize_model(model, SPEC, bits, batches(tokens))
        converted = method.convert(model, SPEC, bits, batches(tokens))
        assert torch.equal(output_of(converted, tokens()), output_of(plain, tokens()))


def test_a_loaded_network_needs_no_choice(network, tokens, output_of):
    model, method, before = begun(network("opt"), tokens)
    trained(model, method, tokens)
    expected = output_of(model.module, tokens())
    method.finish(model)
    other, again = adapt(network("opt")), create("kurtosis_qat", {"bits": "w8a8"})
    again.prepare(other, Context(8, pretrained=True, quant=SPEC))
    again.finish(other)
    other.module.load_state_dict(model.module.state_dict())
    assert torch.equal(output_of(again.convert(other, SPEC, "w8a8", batches(tokens)), tokens()), expected)
    after = {name: told["after"] for name, told in again.analyse(other, [], before)["tensors"].items()}
    assert after == measure(model)


def test_names_and_values_that_cannot_be_are_told(network, tokens):
    with pytest.raises(UserError, match="did you mean"):
        begun(network("bert"), tokens, select="list", names=("layers.0.quary_weight",))
    with pytest.raises(UserError, match="needs a threshold"):
        begun(network("bert"), tokens, select="threshold")
    for key, value in (("target", 1.0), ("weight", -1.0), ("select", "some"), ("threshold", 0.5), ("mode", "mean")):
        with pytest.raises(UserError, match=key):
            create("kurtosis_qat", {"bits": "w8a8", key: value})
