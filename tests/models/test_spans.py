"""The span head: start and end scores as logits, with transformers' own loss, on every encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoModelForQuestionAnswering

from qexp.conf.errors import UserError
from qexp.models.adapt import adapt
from qexp.models.loading import check_objective, finish, network_class

ENCODERS = ("bert", "roberta", "ernie")


@pytest.mark.parametrize("family", ENCODERS)
def test_logits_and_loss_are_transformers_own(
    family: str, network: Callable[..., Any], tokens: Callable[..., Any]
) -> None:
    inputs = tokens(padding="right")
    labels = torch.tensor([[0, 0], [3, 5], [4, 4]])
    plain = network(family, "questions")(**inputs, start_positions=labels[:, 0], end_positions=labels[:, 1])
    model = adapt(finish(network(family, "questions"), family)).module
    ours = model(**inputs, labels=labels)
    assert torch.allclose(ours.logits, torch.stack((plain.start_logits, plain.end_logits), 1), atol=1e-6)
    assert torch.allclose(ours.loss, plain.loss, atol=1e-6)
    assert torch.allclose(model(**inputs, labels=labels, num_items_in_batch=12).loss, ours.loss / 2)
    assert model(**inputs).loss is None
    assert type(model).__name__ == type(network(family, "questions")).__name__


def test_only_encoders_find_answers() -> None:
    assert network_class("question_answering") is AutoModelForQuestionAnswering
    for family in ENCODERS:
        check_objective(family, "question_answering")
    with pytest.raises(UserError, match="gpt2 models find no answers: choose one of bert, roberta, ernie"):
        check_objective("gpt2", "question_answering")
