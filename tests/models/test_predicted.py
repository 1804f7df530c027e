"""Logits of predicted positions only: the same loss and gradients, and nothing of it in evaluation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, BertConfig, ErnieConfig, GPT2Config, RobertaConfig

from qexp.models.predicted import IGNORED, is_masked_lm, predicted_rows_only

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
CONFIGS = {"bert": BertConfig, "roberta": RobertaConfig, "ernie": ErnieConfig}
WORDS = 50


def network(family: str) -> Any:
    torch.manual_seed(0)
    config = CONFIGS[family](vocab_size=WORDS, max_position_embeddings=16, attention_probs_dropout_prob=0.0, **SIZES)
    config.hidden_dropout_prob = 0.0
    return AutoModelForMaskedLM.from_config(config).double().train()


def batch(share: float = 0.3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, WORDS, (4, 8), generator=generator)
    predicted = torch.rand(ids.shape, generator=generator) < share
    return {"input_ids": ids, "labels": ids.masked_fill(~predicted, IGNORED)}


def loss_and_gradients(model: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    output = model(**inputs)
    gradients = torch.autograd.grad(output.loss, list(model.parameters()), allow_unused=True)
    named = {name: g for (name, _), g in zip(model.named_parameters(), gradients, strict=True) if g is not None}
    return output.loss.detach(), named, output.logits


@pytest.mark.parametrize("family", CONFIGS)
def test_loss_and_gradients_are_those_of_all_logits(family: str) -> None:
    model, inputs = network(family), batch()
    loss, gradients, _ = loss_and_gradients(model, inputs)
    with predicted_rows_only(model):
        loss_of_rows, gradients_of_rows, logits = loss_and_gradients(model, inputs)
    assert logits.shape == (int((inputs["labels"] != IGNORED).sum()), WORDS)
    torch.testing.assert_close(loss_of_rows, loss)
    assert gradients.keys() == gradients_of_rows.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradients_of_rows[name], gradient, rtol=1e-9, atol=1e-12)


def test_what_has_no_labels_or_predicts_nothing_or_is_evaluated_passes_as_it_is() -> None:
    model, inputs = network("bert"), batch()
    none = batch(0.0)
    expected = [model(inputs["input_ids"]), model(**none), model.eval()(**inputs)]
    with predicted_rows_only(model.train()):
        model(**inputs)
        found = [model(inputs["input_ids"]), model(**none), model.eval()(**inputs)]
    assert all(torch.equal(a.logits, b.logits) for a, b in zip(found, expected, strict=True))
    assert found[1].loss.isnan() and torch.equal(found[2].loss, expected[2].loss)


def test_the_network_is_as_before_after_the_block() -> None:
    model, inputs = network("bert"), batch()
    with pytest.raises(RuntimeError, match="stopped"), predicted_rows_only(model):
        raise RuntimeError("stopped")
    assert model(**inputs).logits.shape == (4, 8, WORDS)


def test_only_masked_language_models_are() -> None:
    causal = AutoModelForCausalLM.from_config(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=WORDS))
    assert is_masked_lm(network("roberta")) and not is_masked_lm(causal)
