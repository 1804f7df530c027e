"""Clipped softmax on every family: neutral is vanilla, gamma's forms, and what it changes."""

from __future__ import annotations

import pytest
import torch

from qexp.conf.errors import UserError
from qexp.conf.schema import QuantConfig
from qexp.kernels.attention import clipped_softmax
from qexp.methods.base import Context
from qexp.methods.clipped_softmax.functional import ClippedSoftmax
from qexp.methods.registry import create
from qexp.models.adapt import adapt
from qexp.models.capture import capture

LENGTH = 10


def prepared(model, **settings):
    adapted = adapt(model)
    surgery = create("clipped_softmax", settings).prepare(adapted, Context(LENGTH, pretrained=False))
    return adapted, surgery


def test_neutral_setting_is_vanilla_bit_for_bit(family, head, network, tokens, output_of):
    expected = output_of(adapt(network(family, head)).module, tokens(padding="right"))
    adapted, _ = prepared(network(family, head), gamma=0.0)
    assert torch.equal(output_of(adapted.module, tokens(padding="right")), expected)


def test_neutral_module_is_the_softmax_bit_for_bit():
    scores = torch.randn(2, 3, 5, 5)
    assert torch.equal(ClippedSoftmax(0.0, 1.0)(scores), scores.softmax(-1))


def test_probabilities_are_clipped_on_every_family(family, head, network, tokens, output_of):
    plain = network(family, head)
    expected = output_of(adapt(plain).module, tokens())
    adapted, surgery = prepared(network(family, head), alpha=2.0)
    with torch.no_grad(), capture(adapted.module, adapted.sites.activations()) as at:
        adapted.module(**tokens())
    scores, probs = at["layers.0.attention_scores"], at["layers.0.attention_probs"]
    if family in ("gpt2", "opt", "llama"):
        scores = scores + torch.full(scores.shape[-2:], torch.finfo(torch.float32).min).triu(1)
    torch.testing.assert_close(probs, clipped_softmax(scores, -2.0 / LENGTH, 1.0))
    assert (probs == 0).any() and not torch.equal(output_of(adapted.module, tokens()), expected)
    assert [change.site for change in surgery.replaced] == ["layers.0.attention_probs", "layers.1.attention_probs"]
    assert "gamma=-0.2, zeta=1" in surgery.replaced[0].change


def test_padding_gets_probability_zero(family, network, tokens):
    inputs = tokens(padding="right")
    adapted, _ = prepared(network(family), gamma=-0.03, zeta=1.03)
    with torch.no_grad(), capture(adapted.module, adapted.sites.activations()) as at:
        adapted.module(**inputs)
    padded_keys = ~inputs["attention_mask"].bool()[:, None, None, :].expand_as(at["layers.0.attention_probs"])
    assert at["layers.0.attention_probs"][padded_keys].abs().max() == 0


@pytest.mark.parametrize(
    ("settings", "gamma"), [({}, -0.025), ({"gamma": -0.03}, -0.03), ({"alpha": 3.2}, -0.32), ({"alpha": 0.0}, 0.0)]
)
def test_gamma_has_two_forms(settings, gamma):
    assert create("clipped_softmax", settings).gamma(LENGTH) == pytest.approx(gamma)


def test_clipped_entries_get_no_gradient(network, tokens):
    adapted, _ = prepared(network("bert"), gamma=-0.9)
    with capture(adapted.module, adapted.sites.activations()) as at:
        adapted.module(**tokens(), labels=tokens()["input_ids"]).loss.backward()
    assert (at["layers.0.attention_probs"] == 0).float().mean() > 0.5
    assert torch.isfinite(adapted.module.bert.embeddings.word_embeddings.weight.grad).all()


def test_twice_is_an_error(network):
    adapted, _ = prepared(network("opt"))
    with pytest.raises(UserError, match="'clipped_softmax' and 'clipped_softmax' both set"):
        create("clipped_softmax", {}).prepare(adapted, Context(LENGTH, pretrained=False))


def test_converts_to_a_quantized_network_that_still_clips(family, network, tokens):
    adapted, _ = prepared(network(family), alpha=2.0)
    method = create("clipped_softmax", {"alpha": 2.0})
    quantized = method.convert(adapted, QuantConfig(name="test"), "w8a8", [tokens()])
    with torch.no_grad(), capture(quantized, adapted.sites.with_role("attention_probs")) as at:
        quantized(**tokens())
    assert (at["layers.1.attention_probs"] == 0).any()
