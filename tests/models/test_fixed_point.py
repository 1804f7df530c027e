"""Integer layers in real networks: forward, gradients, what is left as it was, and what a certificate says of them."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from qexp.kernels.fixed_point.linear import Arithmetic
from qexp.kernels.fixed_point.mapping import NotFiniteError
from qexp.kernels.fixed_point.operand import OutlierFormat
from qexp.kernels.fixed_point.outliers import Threshold
from qexp.kernels.int8 import select
from qexp.models import fixed_point
from qexp.models.certificate import IntegerError, Recorder
from qexp.models.fixed_point_certificate import certificate

PRECISE = Arithmetic(16, 16, 16)
SPLIT = Arithmetic(threshold=Threshold(1.0), outliers=OutlierFormat(12))
WIDE = replace(SPLIT, outliers=OutlierFormat(12, wide=True))


@pytest.fixture(autouse=True)
def settled():
    select("auto")  # its self-test would otherwise run inside a recorded step


def everywhere(name):
    return True


def installed(network, arithmetic):
    changed = copy.deepcopy(network)
    names = fixed_point.install(changed, arithmetic, everywhere)
    return changed, names


def gradients(network, inputs):
    torch.manual_seed(3)
    network.zero_grad()
    network(**inputs, labels=inputs["input_ids"]).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in network.named_parameters()}


def test_every_linear_layer_is_one_and_parameters_keep_their_names(family, head, network):
    plain = network(family, head)
    changed, names = installed(plain, PRECISE)
    assert names == tuple(n for n, m in plain.named_modules() if isinstance(m, nn.Linear | Conv1D))
    assert [name for name, _ in changed.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert list(changed.state_dict()) == list(plain.state_dict())
    assert [type(m).__name__ for m in plain.modules()] == [
        type(m).__name__
        for n, m in changed.named_modules()
        if fixed_point.FORWARD not in n and fixed_point.BACKWARD not in n
    ]


def test_removed_it_is_the_float_network_again(family, head, network, tokens, output_of):
    plain = network(family, head)
    changed, _ = installed(plain, SPLIT)
    assert not torch.equal(output_of(changed, tokens()), output_of(plain, tokens()))
    fixed_point.remove(changed)
    assert torch.equal(output_of(changed, tokens()), output_of(plain, tokens()))
    assert [type(m) for m in changed.modules()] == [type(m) for m in plain.modules()]


def test_sixteen_bits_are_nearly_the_floats_forward_and_backward(family, network, tokens, output_of):
    plain = network(family)
    changed, _ = installed(plain, PRECISE)
    torch.testing.assert_close(output_of(changed, tokens()), output_of(plain, tokens()), rtol=1e-2, atol=2e-3)
    expected, found = gradients(plain, tokens()), gradients(changed, tokens())
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-2 * gradient.norm() + 1e-5, name  # a key's bias has none


def test_tiles_are_the_wide_integers_bit_for_bit(family, network, tokens, output_of):
    tiled, _ = installed(network(family), SPLIT)
    wide, _ = installed(network(family), WIDE)
    assert torch.equal(output_of(tiled, tokens()), output_of(wide, tokens()))
    expected, found = gradients(wide, tokens()), gradients(tiled, tokens())
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


def test_a_threshold_beyond_every_activation_is_one_tensor_bit_for_bit(family, network, tokens, output_of):
    one, _ = installed(network(family), Arithmetic())
    split, _ = installed(network(family), replace(SPLIT, threshold=Threshold(1e9)))
    assert torch.equal(output_of(one, tokens()), output_of(split, tokens()))
    expected, found = gradients(one, tokens()), gradients(split, tokens())
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


def test_frozen_weights_give_the_same_bits(family, network, tokens, output_of):
    changed, _ = installed(network(family), replace(SPLIT, weight_bits=8))
    expected = output_of(changed, tokens())
    fixed_point.freeze(changed, "auto")
    assert torch.equal(output_of(changed, tokens()), expected)


def test_frozen_rounds_to_nearest_whatever_training_does(network, tokens, output_of):
    nearest, _ = installed(network("bert"), Arithmetic())
    random, _ = installed(network("bert"), Arithmetic(forward_rounding="stochastic"))
    assert not torch.equal(output_of(random, tokens()), output_of(random, tokens()))
    for one in (nearest, random):
        fixed_point.freeze(one, "auto")
    assert torch.equal(output_of(random, tokens()), output_of(nearest, tokens()))


def test_random_rounding_follows_torchs_seed(network, tokens):
    changed, _ = installed(network("gpt2"), SPLIT)
    first, again = gradients(changed, tokens()), gradients(changed, tokens())
    assert all(torch.equal(first[name], again[name]) for name in first)
    torch.manual_seed(4)
    changed.zero_grad()
    changed(**tokens(), labels=tokens()["input_ids"]).loss.backward()
    other = dict(changed.named_parameters())
    assert any(not torch.equal(first[name], other[name].grad) for name in first)


@pytest.mark.parametrize(("where", "value"), [("weight", float("nan")), ("input", float("inf"))])
def test_what_is_not_finite_names_the_layer(where, value, network, tokens):
    changed, names = installed(network("bert"), SPLIT)
    layer = changed.get_submodule(names[3])
    if where == "weight":
        layer.weight.data[0, 0] = value
    else:
        changed.get_submodule(names[2]).bias.data[0] = value
    with pytest.raises(NotFiniteError, match=f"NaN or infinity in the {where} of bert.encoder.layer.0"):
        changed(**tokens())


def test_a_gradient_that_is_not_finite_names_the_layer():
    net = nn.Sequential(nn.Linear(4, 4))
    fixed_point.install(net, Arithmetic(), everywhere)
    with pytest.raises(NotFiniteError, match="NaN or infinity in the gradient of 0"):
        (net(torch.randn(2, 4)) * float("inf")).sum().backward()


def step(network, inputs):
    network.train()
    with Recorder() as recorder:
        network(**inputs, labels=inputs["input_ids"]).loss.backward()
    return recorder


def test_certificate_of_a_training_step(family, network, tokens):
    changed, names = installed(network(family), SPLIT)
    proof = certificate(changed, step(changed, tokens()), backward=True, wide=False)
    listed = {(product["name"], product["kind"]) for product in proof["products"]}
    assert listed == {(name, which) for name in names for which in ("forward", "backward")}
    assert all(product["accumulator"] == "int32" and "float" not in product["input"] for product in proof["products"])
    # two products at least in each backward pass: of the input's gradient and of the weight's
    assert all(product["calls"] >= 2 for product in proof["products"] if product["kind"] == "backward")
    assert "backward pass" in [product["name"] for product in proof["in_float"]]  # attention's
    assert not {product["name"] for product in proof["in_float"]} & set(names)


def test_certificate_of_wide_products_lists_them_as_emulated(network, tokens):
    changed, _ = installed(network("bert"), WIDE)
    seen = step(changed, tokens())
    with pytest.raises(IntegerError, match="multiplied floats in its"):
        certificate(changed, seen, backward=True, wide=False)
    proof = certificate(changed, seen, backward=True, wide=True)
    assert any("emulated in float64" in product["why"] for product in proof["in_float"])


def test_a_layer_that_multiplied_floats_is_found_out(network, tokens):
    changed, names = installed(network("bert"), SPLIT)
    layer = changed.get_submodule(names[0])
    hook = layer.qexp_forward.register_forward_hook(lambda module, args, out: (out[0] + args[0] @ args[1].t(), out[1]))
    with pytest.raises(IntegerError, match=f"{names[0]} is claimed in integers, but aten::mm multiplied floats beside"):
        certificate(changed, step(changed, tokens()), backward=True, wide=False)
    hook.remove()
    fixed_point.remove(changed)
    fixed_point.install(changed, SPLIT, everywhere)
    with pytest.raises(IntegerError, match="no integer product was seen in its forward"):
        certificate(changed, Recorder(), backward=False, wide=False)


def test_a_frozen_first_layer_needs_no_backward(network, tokens):
    changed, names = installed(network("bert"), SPLIT)
    for name, parameter in changed.named_parameters():
        parameter.requires_grad_("layer.0" not in name and "embeddings" not in name)
    proof = certificate(changed, step(changed, tokens()), backward=True, wide=False)
    backward = {product["name"] for product in proof["products"] if product["kind"] == "backward"}
    assert names[0] not in backward and names[-1] in backward
