"""A small vocabulary of words, tokenizers of both kinds over it, and networks whose answers are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qexp.conf.schema import TaskConfig

WORDS = [f"w{i}" for i in range(40)]


def _word_level(special: list[str]) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {token: i for i, token in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=special[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


@pytest.fixture(scope="session")
def bert_tokenizer() -> Any:
    """``[CLS] a [SEP] b [SEP]``; ids 0 to 4 are special, ``w0`` is 5."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = _word_level(["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


@pytest.fixture(scope="session")
def gpt_tokenizer() -> Any:
    """Adds no token of its own; ``<unk>`` 0, ``<end>`` 1, ``w0`` is 2."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=_word_level(["<unk>", "<end>"]),
        unk_token="<unk>",
        eos_token="<end>",
        pad_token="<end>",
        model_input_names=["input_ids", "attention_mask"],
    )


@pytest.fixture
def text_config() -> Callable[..., TaskConfig]:
    def make(folder: Path, **changes: Any) -> TaskConfig:
        settings = {"name": "text_folder", "kind": "text", "folder": str(folder), "max_length": 8}
        return TaskConfig(**{**settings, **changes})

    return make


class Scripted(nn.Module):
    """A network that answers ``logits = answer(input_ids)`` and keeps the batches that it was given."""

    def __init__(self, answer: Callable[[Tensor], Tensor]):
        super().__init__()
        self.answer = answer
        self.batches: list[dict[str, Tensor]] = []
        self.modes: list[bool] = []

    def forward(self, **batch: Tensor) -> SimpleNamespace:
        self.batches.append(batch)
        self.modes.append(self.training)
        return SimpleNamespace(logits=self.answer(batch["input_ids"]))


class Bigram(Scripted):
    """Fixed random logits [vocabulary] for each token, whatever stands beside it."""

    def __init__(self, vocabulary: int, seed: int = 0):
        table = torch.randn(vocabulary, vocabulary, generator=torch.Generator().manual_seed(seed))
        super().__init__(lambda ids: table[ids])
        self.table = table


@pytest.fixture
def scripted() -> type[Scripted]:
    return Scripted


@pytest.fixture
def bigram() -> type[Bigram]:
    return Bigram
