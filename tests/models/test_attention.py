"""The attention function beside Hugging Face's own: same figures, no look ahead, no look at padding."""

from __future__ import annotations

import copy

import pytest
import torch

from qexp.kernels.gates import LinearGate
from qexp.models.adapt import adapt
from qexp.models.attention import AttentionParts, Tap, attach_parts, qexp_attention
from qexp.models.surgery import parts_of

TOLERANCE = {"atol": 1e-5, "rtol": 0.0}  # other order of summation in float32, values of size 1 to 10
PADDINGS = ("none", "left", "right")


def watch(model):
    """A hook on every score tap: the explicit path instead of the fused kernel."""
    for info in model.attention:
        parts_of(model, info).scores.register_forward_hook(lambda *_: None)


def real(inputs, head):
    return slice(None) if head == "classifier" else inputs["attention_mask"].bool()


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("explicit", [False, True])
def test_equals_eager(family, head, padding, explicit, network, tokens, output_of):
    model, inputs = network(family, head), tokens(padding=padding)
    expected = output_of(model, inputs)
    adapted = adapt(model)
    if explicit:
        watch(adapted)
    torch.testing.assert_close(output_of(model, inputs)[real(inputs, head)], expected[real(inputs, head)], **TOLERANCE)


def test_explicit_path_is_eager_bit_for_bit(family, network, tokens, output_of):
    model, inputs = network(family), tokens()
    expected = output_of(model, inputs)
    watch(adapt(model))
    assert torch.equal(output_of(model, inputs), expected)


@pytest.mark.parametrize("explicit", [False, True])
def test_causal_families_do_not_see_the_future(decoder, explicit, network, tokens, output_of):
    model, inputs = network(decoder, "base"), tokens()
    adapted = adapt(model)
    if explicit:
        watch(adapted)
    before = output_of(model, inputs)
    inputs["input_ids"][:, 5:] = (inputs["input_ids"][:, 5:] - 2) % 58 + 3
    after = output_of(model, inputs)
    torch.testing.assert_close(after[:, :5], before[:, :5], **TOLERANCE)
    assert (after[:, 5:] - before[:, 5:]).abs().max() > 1e-2


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("explicit", [False, True])
def test_padding_is_not_attended_to(family, padding, explicit, network, tokens, output_of):
    model, inputs = network(family, "base"), tokens(padding=padding)
    adapted = adapt(model)
    if explicit:
        watch(adapted)
    before, mask = output_of(model, inputs), inputs["attention_mask"].bool()
    with torch.no_grad():  # RoBERTa numbers positions by the padding id, so the id stays and its embedding changes
        model.get_input_embeddings().weight[1] += 3.0
    after = output_of(model, inputs)
    torch.testing.assert_close(after[mask], before[mask], **TOLERANCE)
    assert torch.isfinite(after).all()


@pytest.mark.parametrize("explicit", [False, True])
def test_right_padding_gives_each_row_its_unpadded_result(family, head, explicit, network, tokens, output_of):
    model, inputs = network(family, head), tokens(padding="right")
    adapted = adapt(model)
    if explicit:
        watch(adapted)
    padded = output_of(model, inputs)
    for row, length in enumerate(inputs["attention_mask"].sum(1).tolist()):
        alone = output_of(model, {key: value[row : row + 1, :length] for key, value in inputs.items()})
        expected = padded[row : row + 1] if head == "classifier" else padded[row : row + 1, :length]
        torch.testing.assert_close(alone, expected, **TOLERANCE)


@pytest.mark.parametrize("family_", ["opt", "llama"])  # their positions do not count padding
def test_left_padding_gives_each_row_its_unpadded_result(family_, head, network, tokens, output_of):
    model, inputs = network(family_, head), tokens(padding="left")
    adapt(model)
    padded = output_of(model, inputs)
    for row, length in enumerate(inputs["attention_mask"].sum(1).tolist()):
        alone = output_of(model, {key: value[row : row + 1, -length:] for key, value in inputs.items()})
        expected = padded[row : row + 1] if head == "classifier" else padded[row : row + 1, -length:]
        torch.testing.assert_close(alone, expected, **TOLERANCE)


def test_gradients_are_eagers(family, network, tokens):
    model, inputs = network(family), tokens()
    twin = copy.deepcopy(model)
    adapt(twin)
    for each in (model, twin):
        each.train()(**inputs, labels=inputs["input_ids"]).loss.backward()
    gradients = dict(twin.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name].grad, parameter.grad, **TOLERANCE)


def test_attention_dropout_drops_only_while_training(network, tokens, output_of):
    model, inputs = network("bert", attention_probs_dropout_prob=0.5), tokens()
    expected = output_of(model, inputs)
    adapt(model)
    torch.testing.assert_close(output_of(model, inputs), expected, **TOLERANCE)
    model.train()
    assert (output_of(model, inputs) - expected).abs().max() > 1e-2


def test_hidden_states_and_checkpointing_still_work(family, network, tokens):
    model, inputs = network(family), tokens()
    with torch.no_grad():
        expected = model(**inputs, output_hidden_states=True).hidden_states
    twin = copy.deepcopy(model)
    adapt(twin)
    with torch.no_grad():
        for ours, theirs in zip(twin(**inputs, output_hidden_states=True).hidden_states, expected, strict=True):
            torch.testing.assert_close(ours, theirs, **TOLERANCE)
    plain = twin.train()(**inputs, labels=inputs["input_ids"]).loss
    twin.activation_checkpointing_enable({"use_reentrant": False})
    checkpointed = twin(**inputs, labels=inputs["input_ids"], use_cache=False).loss
    checkpointed.backward()
    assert torch.equal(plain, checkpointed)


class Module(torch.nn.Module):
    def __init__(self, context_after_gate=True):
        super().__init__()
        attach_parts(self, context_after_gate=context_after_gate)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_row_without_any_token_is_finite_in_half_precision(dtype):
    query, key, value = torch.randn(3, 1, 2, 4, 8).to(dtype)
    mask = torch.full((1, 1, 4, 4), torch.finfo(torch.float32).min)
    context, _ = qexp_attention(Module(), query, key, value, mask)
    assert torch.isfinite(context).all() and context.dtype == dtype


def test_shapes_and_order_of_gate_and_context_site():
    query, key, value = torch.randn(2, 4, 5, 3), torch.randn(2, 2, 5, 3), torch.randn(2, 2, 5, 3)
    for after in (True, False):
        module, seen = Module(after).eval(), []
        module.qexp.gate = LinearGate(4, 3)
        module.qexp.context.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out))
        x = torch.randn(2, 5, 12)
        context, probs = qexp_attention(module, query, key, value, None, gate_input=x)
        assert context.shape == (2, 5, 4, 3) and probs is None and seen[0].shape == (2, 5, 12)
        assert torch.equal(seen[0], context.flatten(2)) == after
        gate = module.qexp.gate(x).transpose(1, 2)
        plain, _ = qexp_attention(Module(), query, key, value, None)
        torch.testing.assert_close(context, plain * gate)


def test_parts_have_no_parameters_and_taps_are_the_identity():
    x = torch.randn(3)
    assert not list(AttentionParts(True).parameters()) and Tap()(x) is x
