"""Running a network block by block is running it."""

from __future__ import annotations

import pytest
import torch

from qexp.conf.schema import QuantConfig
from qexp.models.adapt import adapt
from qexp.models.blocks import advance, block_paths, call_of, first_inputs, run_block
from qexp.models.capture import site_tensor
from qexp.models.quantization import quantize_model, run_body


def block_outputs(network, model, batches):
    """Every block's outputs in the network's own forward pass: [block][batch]."""
    seen = [[] for _ in model.attention]
    handles = [
        network.get_submodule(path).register_forward_hook(lambda _, __, out, into=into: into.append(site_tensor(out)))
        for path, into in zip(block_paths(model), seen, strict=True)
    ]
    with torch.no_grad():
        for batch in batches:
            run_body(network, batch)
    for handle in handles:
        handle.remove()
    return seen


def stepwise(network, model, batches):
    calls, outputs = first_inputs(network, model, batches), []
    for path in block_paths(model):
        advance(network.get_submodule(path), calls)
        outputs.append([call.hidden for call in calls])
    return outputs


def all_equal(left, right):
    return all(torch.equal(a, b) for x, y in zip(left, right, strict=True) for a, b in zip(x, y, strict=True))


def padded(tokens):
    return [tokens(padding="right"), tokens(padding="left", seed=1), tokens(length=6, rows=2, seed=2)]


def test_blocks_are_the_networks_layers(family, head, network):
    model = adapt(network(family, head))
    kinds = {type(model.module.get_submodule(path)).__name__ for path in block_paths(model)}
    assert len(kinds) == 1 and kinds.pop().endswith(("Layer", "Block")) and len(block_paths(model)) == 2


def test_block_by_block_is_the_forward_pass_bit_for_bit(family, head, network, tokens):
    model = adapt(network(family, head))
    assert all_equal(stepwise(model.module, model, padded(tokens)), block_outputs(model.module, model, padded(tokens)))


@pytest.mark.parametrize("changes", [{"do_layer_norm_before": False}, {"word_embed_proj_dim": 8}])
def test_post_norm_and_projected_blocks_too(changes, network, tokens):
    model = adapt(network("opt", **changes))
    assert all_equal(stepwise(model.module, model, padded(tokens)), block_outputs(model.module, model, padded(tokens)))


def test_a_quantized_copy_too(family, network, tokens):
    model = adapt(network(family))
    copy = quantize_model(model, QuantConfig(name="test"), "w4a4", padded(tokens))
    assert all_equal(stepwise(copy, model, padded(tokens)), block_outputs(copy, model, padded(tokens)))


def test_gradient_checkpointing_is_not_in_the_way(family, network, tokens):
    model = adapt(network(family))
    expected = block_outputs(model.module, model, padded(tokens))
    model.module.activation_checkpointing_enable()
    model.module.train()  # the tiny networks have no dropout
    assert all_equal(stepwise(model.module, model, padded(tokens)), expected)


def test_the_network_is_left_as_it_was(family, network, tokens, output_of):
    model = adapt(network(family))
    expected = output_of(model.module, tokens())
    calls = first_inputs(model.module, model, [{**tokens(), "labels": tokens()["input_ids"]}])
    assert not any(module._forward_pre_hooks for module in model.module.modules())
    assert not calls[0].hidden.requires_grad and calls[0].hidden.shape == (3, 9, 16)
    assert torch.equal(output_of(model.module, tokens()), expected)


def test_nothing_behind_the_first_block_is_run(family, network, tokens):
    model = adapt(network(family))
    last = model.module.get_submodule(block_paths(model)[0])
    last.register_forward_hook(lambda *_: pytest.fail("the first block was run"))
    first_inputs(model.module, model, [tokens()])


def test_a_block_passes_gradients(family, network, tokens):
    model = adapt(network(family))
    block = model.module.get_submodule(block_paths(model)[0])
    (call,) = first_inputs(model.module, model, [tokens(padding="right")])
    run_block(block, call, call.hidden).square().mean().backward()
    assert all(parameter.grad is not None for parameter in block.parameters())


def test_a_module_that_is_not_called_is_told(network):
    model = adapt(network("bert"))
    with pytest.raises(RuntimeError, match="BertEncoder is not called"):
        call_of(model.module.bert.encoder, lambda: None)
