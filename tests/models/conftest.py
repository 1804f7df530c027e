"""Tiny random networks of every family and head, and padded batches for them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM
from transformers import AutoModelForQuestionAnswering as AutoQuestions
from transformers import AutoModelForSequenceClassification as AutoClassifier

torch.set_num_threads(1)  # these networks are too small to share
VOCAB, PAD, WIDTH, HEADS = 61, 1, 16, 2
ENCODERS = ("bert", "roberta", "ernie")
DECODERS = ("gpt2", "opt", "llama")
FAMILIES = ENCODERS + DECODERS
HEADS_OF = {
    "base": AutoModel,
    "language": {**dict.fromkeys(ENCODERS, AutoModelForMaskedLM), **dict.fromkeys(DECODERS, AutoModelForCausalLM)},
    "classifier": AutoClassifier,
    "questions": dict.fromkeys(ENCODERS, AutoQuestions),
}
_COMMON = {"vocab_size": VOCAB, "pad_token_id": PAD, "num_labels": 3}
_BERT = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
_DIMENSIONS: dict[str, dict[str, Any]] = {
    "bert": _BERT,
    "roberta": _BERT,
    "ernie": {**_BERT, "use_task_id": True, "task_type_vocab_size": 3},
    "gpt2": {
        **{"n_embd": WIDTH, "n_layer": 2, "n_head": HEADS, "n_positions": 40},
        **{"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 2, "eos_token_id": 2},
    },
    "opt": {
        **{"hidden_size": WIDTH, "word_embed_proj_dim": WIDTH, "num_hidden_layers": 2, "num_attention_heads": HEADS},
        **{"ffn_dim": 24, "max_position_embeddings": 40, "dropout": 0.0},
    },
    "llama": {
        **{"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
        **{"intermediate_size": 24, "max_position_embeddings": 40, "tie_word_embeddings": True},
    },
}


def make(family: str, head: str = "language", **changes: Any) -> Any:
    """A fresh 2-layer network with spread-out weights, so that attention is far from uniform."""
    return copy.deepcopy(_make(family, head, tuple(changes.items())))


@lru_cache(maxsize=64)
def _make(family: str, head: str, items: tuple[tuple[str, Any], ...]) -> Any:
    torch.manual_seed(7)
    changes = dict(items)
    config = AutoConfig.for_model(family, **{**_COMMON, **_DIMENSIONS[family], **changes})
    auto = HEADS_OF[head]
    if isinstance(auto, dict):
        auto = auto[family]
    if head == "questions":
        config.num_labels = 2
    model = auto.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    return model


def batch(rows: int = 3, length: int = 9, padding: str = "none", seed: int = 0) -> dict[str, Tensor]:
    """Token ids and mask; ``left`` or ``right`` padding takes 2 * row tokens of each row."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCAB, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(rows) if padding != "none" else ():
        empty = slice(0, 2 * row) if padding == "left" else slice(length - 2 * row, length)
        ids[row, empty], mask[row, empty] = PAD, 0
    return {"input_ids": ids, "attention_mask": mask}


def main_output(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Logits, or the last hidden state of a network without a head."""
    with torch.no_grad():
        output = model(**inputs)
    result: Tensor = output[0]
    return result


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Every family in turn."""
    name: str = request.param
    return name


@pytest.fixture(params=DECODERS)
def decoder(request: pytest.FixtureRequest) -> str:
    """Every causal family in turn."""
    name: str = request.param
    return name


@pytest.fixture(params=["base", "language", "classifier"])
def head(request: pytest.FixtureRequest) -> str:
    """Every kind of head in turn."""
    name: str = request.param
    return name


@pytest.fixture
def network() -> Callable[..., Any]:
    return make


@pytest.fixture
def tokens() -> Callable[..., dict[str, Tensor]]:
    return batch


@pytest.fixture
def output_of() -> Callable[..., Tensor]:
    return main_output
