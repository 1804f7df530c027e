"""Classification by the last real token: the same logits without padding, and with padding on either side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qexp.conf.schema import ModelConfig
from qexp.models.loading import load_model, load_tokenizer

TEXTS = ["a quick fox", "five dozen liquor jugs and a lazy dog", "dog"] * 10
DIMENSIONS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_layer": 2, "n_embd": 32, "n_head": 2, "initializer_range": 0.3},
    "opt": {
        **{"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "word_embed_proj_dim": 32},
        **{"init_std": 0.3, "ffn_dim": 64},
    },
    "llama": {
        **{"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64},
        "initializer_range": 0.3,
    },
    "bert": {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "initializer_range": 0.3},
}


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("pad", ["own", "eos"])
def test_padding_on_either_side_changes_no_logit(family: str, side: str, pad: str, tmp_path: Path) -> None:
    cfg = ModelConfig(
        name="t", source="scratch", family=family, tokenizer="train", vocab_size=280, dimensions=DIMENSIONS[family]
    )  # type: ignore[arg-type]  # a parametrized string for a Literal
    tokenizer = load_tokenizer(cfg, TEXTS, None, tmp_path)
    if pad == "eos":  # as GPT-2's own tokenizer, which has no padding token
        tokenizer.pad_token = tokenizer.eos_token
    model = load_model(cfg, "classification", 3, tokenizer, 16, seed=1)
    tokenizer.padding_side = side
    batch = tokenizer(TEXTS[:3], padding=True, return_tensors="pt")
    assert batch["attention_mask"].sum(1).tolist() != [batch["input_ids"].shape[1]] * 3
    with torch.no_grad():
        alone = [model(input_ids=torch.tensor([tokenizer(text)["input_ids"]])).logits[0] for text in TEXTS[:3]]
        together: Tensor = model(**batch).logits
    # Other batch shapes sum in another order: float32 rounding of logits of order 1.
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-5, rtol=1e-4)


def test_positions_given_by_the_caller_are_kept(tmp_path: Path) -> None:
    cfg = ModelConfig(
        name="t",
        source="scratch",
        family="gpt2",
        tokenizer="train",
        vocab_size=280,
        dimensions=DIMENSIONS["gpt2"],
    )
    tokenizer = load_tokenizer(cfg, TEXTS, None, tmp_path)
    model = load_model(cfg, "causal_lm", None, tokenizer, 16, seed=1)
    ids, mask = torch.tensor([[5, 6, 7]]), torch.ones(1, 3, dtype=torch.long)
    with torch.no_grad():
        usual = model(input_ids=ids).logits
        assert torch.equal(usual, model(input_ids=ids, attention_mask=mask, position_ids=torch.arange(3)[None]).logits)
        moved = model(input_ids=ids, attention_mask=mask, position_ids=torch.arange(3, 6)[None]).logits
    assert not torch.allclose(usual, moved)
