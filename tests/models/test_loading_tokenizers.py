"""Tokenizers: trained ones are deterministic and cached, named ones are found, all pad on the right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qexp.conf.errors import UserError
from qexp.conf.schema import ModelConfig
from qexp.models import sources
from qexp.models.loading import load_tokenizer

TEXTS = [
    "The café serves naïve croissants; 東京 is far — très loin.",
    "Pack my box with five dozen liquor jugs! 0123456789",
    "",
    "the theatre, then they thanked them: thorough thoughts throughout",
] * 5


def cfg(family: str = "bert", tokenizer: str = "train", **changes: Any) -> ModelConfig:
    settings = {"name": "t", "source": "scratch", "family": family, "tokenizer": tokenizer, "vocab_size": 400}
    return ModelConfig(**{**settings, **changes})


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "hub_is_reachable", lambda: False)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_two_processes_train_the_same_tokenizer(family: str, tmp_path: Path) -> None:
    """The library's WordPiece trainer alone gives another vocabulary in each process (hash-map order)."""
    script = (
        "import sys, json; from pathlib import Path; from qexp.conf.schema import ModelConfig;"
        "from qexp.models.loading import load_tokenizer; texts, family, cache = json.loads(sys.argv[1]);"
        "cfg = ModelConfig(name='t', source='scratch', family=family, tokenizer='train', vocab_size=400);"
        "print(json.dumps(load_tokenizer(cfg, texts, None, Path(cache)).get_vocab()))"
    )
    arguments = json.dumps([TEXTS, family, str(tmp_path / "theirs")])
    done = subprocess.run([sys.executable, "-c", script, arguments], capture_output=True, text=True, check=True)
    mine = load_tokenizer(cfg(family), TEXTS, None, tmp_path / "mine").get_vocab()
    assert json.loads(done.stdout) == mine


def test_the_same_text_is_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qexp.models import tokenizers

    first = load_tokenizer(cfg(), iter(TEXTS), None, tmp_path)
    monkeypatch.setattr(tokenizers, "_train_wordpiece", None)  # a second training would fail
    again = load_tokenizer(cfg(), TEXTS, None, tmp_path)
    assert again.get_vocab() == first.get_vocab()
    assert again(TEXTS[0], TEXTS[1]).data == first(TEXTS[0], TEXTS[1]).data
    with pytest.raises(TypeError):
        load_tokenizer(cfg(), [*TEXTS, "more"], None, tmp_path)
    assert len(list((tmp_path / "tokenizers").iterdir())) == 1  # what failed left nothing behind


def test_wordpiece_is_lower_case_with_berts_tokens(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(cfg(), TEXTS, None, tmp_path)
    pair = tokenizer("The CAFÉ", "tokyo")
    tokens = tokenizer.convert_ids_to_tokens(pair["input_ids"])
    assert tokens[0] == "[CLS]" and tokens[-1] == "[SEP]" and tokens.count("[SEP]") == 2
    assert tokens[1] == "the" and "[UNK]" not in tokens[:3]
    assert pair["token_type_ids"] == [0] * (tokens.index("[SEP]") + 1) + [1] * (len(tokens) - tokens.index("[SEP]") - 1)
    assert tokenizer.pad_token_id == 0 and tokenizer.mask_token == "[MASK]"
    assert tokenizer.tokenize("e") == ["e"]  # single letters are ordinary tokens, though the trainer was told otherwise
    assert not set(tokenizer.all_special_tokens) - {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    assert len(tokenizer) <= 400


@pytest.mark.parametrize(
    ("family", "first", "last"), [("gpt2", None, None), ("opt", "<s>", None), ("llama", "<s>", None)]
)
def test_byte_level_is_lossless(family: str, first: str | None, last: str | None, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(cfg(family), TEXTS, None, tmp_path)
    for text in (TEXTS[0], "Ünseen: 🙂 \t tabs"):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert (tokenizer.convert_ids_to_tokens(ids)[0] == "<s>") == (first == "<s>")
    assert "token_type_ids" not in tokenizer("a", "b")
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}) == 3


def test_roberta_wraps_a_text_and_can_mask(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(cfg("roberta"), TEXTS, None, tmp_path)
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("the box", "the fox")["input_ids"])
    assert tokens[0] == "<s>" and tokens[-1] == "</s>" and tokens.count("</s>") == 3
    assert tokenizer.mask_token == "<mask>" and tokenizer.pad_token_id == 1


def test_a_named_tokenizer_is_found_below_the_data_folder(tmp_path: Path) -> None:
    made = load_tokenizer(cfg(), TEXTS, None, tmp_path / "cache")
    made.save_pretrained(tmp_path / "data" / "tokenizers" / "my-words")
    found = load_tokenizer(cfg(tokenizer="my-words"), None, str(tmp_path / "data"), tmp_path)
    assert found.get_vocab() == made.get_vocab() and found.padding_side == "right"
    folder = str(tmp_path / "data" / "tokenizers" / "my-words")
    assert load_tokenizer(cfg(tokenizer=folder), None, None, tmp_path).get_vocab() == made.get_vocab()


@pytest.mark.data
@pytest.mark.parametrize(("name", "size"), [("bert-base-uncased", 30522), ("gpt2", 50257)])
def test_the_data_folders_tokenizers(name: str, size: int, tmp_path: Path) -> None:
    import os

    data = os.environ.get("QEXP_DATA_DIR")
    if not data:
        pytest.skip("needs QEXP_DATA_DIR")
    tokenizer = load_tokenizer(cfg(tokenizer=name), None, data, tmp_path)
    assert len(tokenizer) == size and tokenizer.pad_token_id is not None


@pytest.mark.parametrize(
    ("config", "texts", "message"),
    [
        (cfg(tokenizer="own"), None, "has no own tokenizer: model.tokenizer=train"),
        (cfg(), None, "needs a task with training text"),
        (cfg(), ["", "  "], "needs a task with training text"),
        (cfg("gpt2", vocab_size=64), TEXTS, "model.vocab_size=64 is too small"),
        (cfg(tokenizer="owner/words"), None, "tokenizer 'owner/words' could not be fetched: no network"),
        (cfg(tokenizer="/no/folder"), None, "folder '/no/folder' does not exist"),
        (cfg(source="hub", path="gpt2"), TEXTS, "is pretrained and needs the tokenizer it was trained with"),
    ],
)
def test_no_such_tokenizer_is_one_line(config: ModelConfig, texts: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_tokenizer(config, texts, None, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_tokenizer_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tokenizer can be read from"):
        load_tokenizer(cfg(tokenizer=str(tmp_path)), None, None, tmp_path)
