"""Tokenizers: a checkpoint's own, a named one, or one made from the task's text (same text, same tokenizer)."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qexp.conf.errors import UserError
from qexp.conf.schema import ModelConfig
from qexp.models.folders import new_folder
from qexp.models.quiet import quiet
from qexp.models.sources import Checkpoint, checkpoint_at, family_of, first_line, is_pretrained, locate, unavailable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RECIPE = 1
"""Raised whenever the same text would train another tokenizer."""
WORDPIECE_FAMILIES = ("bert", "ernie")
BOS_FAMILIES = ("roberta", "opt", "llama")
"""Byte-level families that put a beginning-of-sequence token before each text, as their released tokenizers do."""
CHARACTERS = "characters"
"""``model.tokenizer`` of those to whom every character of the text is a token."""
MAX_ALPHABET = 1000


def load_tokenizer(
    cfg: ModelConfig, texts: Iterable[str] | None, data_dir: str | None, cache_dir: Path
) -> PreTrainedTokenizerBase:
    """The tokenizer that ``cfg.tokenizer`` asks for, padding on the right, with a padding token and no length limit.

    ``own``: the checkpoint's. ``train`` and ``characters``: made from ``texts`` (models from scratch only), kept below
    ``cache_dir``.
    Anything else: a local folder, a folder ``tokenizers/<name>`` below ``data_dir``, or an id on the hub.
    Raises UserError where there is no such tokenizer.
    """
    if cfg.tokenizer in ("train", CHARACTERS):
        if is_pretrained(cfg):
            raise UserError(f"model {cfg.name!r} is pretrained and needs the tokenizer it was trained with: own")
        checkpoint = _trained(cfg, texts, cache_dir)
    elif cfg.tokenizer == "own":
        if not is_pretrained(cfg):
            raise UserError(f"model {cfg.name!r} is made from scratch and has no own tokenizer: model.tokenizer=train")
        checkpoint = locate(cfg)
    else:
        checkpoint = _named(cfg.tokenizer, data_dir)
    return _usable(read_tokenizer(checkpoint, "model" if cfg.tokenizer == "own" else "tokenizer"))


def read_tokenizer(checkpoint: Checkpoint, what: str = "tokenizer") -> PreTrainedTokenizerBase:
    """``AutoTokenizer`` without remote code; raises UserError in place of its many errors."""
    from transformers import AutoTokenizer

    try:
        with quiet():
            return AutoTokenizer.from_pretrained(
                checkpoint.location, trust_remote_code=False, **{"local_files_only": True, **checkpoint.options}
            )
    except Exception as error:  # from a missing file to a Rust parser's own exception
        if checkpoint.is_local:
            raise UserError(f"no tokenizer can be read from {checkpoint.location!r}: {first_line(error)}") from error
        raise unavailable(what, checkpoint.location, error) from error


def _named(name: str, data_dir: str | None) -> Checkpoint:
    local = Path(data_dir, "tokenizers", name) if data_dir else None
    return Checkpoint(str(local)) if local and local.is_dir() else checkpoint_at(name)


def _usable(tokenizer: Any) -> Any:
    """Right padding, some padding token, and no length limit: qexp checks lengths against the model itself."""
    tokenizer.padding_side = "right"
    tokenizer.model_max_length = int(1e30)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise UserError("the tokenizer has no padding, end-of-sequence or unknown token to pad with")
    return tokenizer


def _trained(cfg: ModelConfig, texts: Iterable[str] | None, cache_dir: Path) -> Checkpoint:
    """Train on ``texts``, or find the tokenizer that the same texts and settings gave before."""
    corpus = [text for text in texts or () if text.strip()]
    if not corpus:
        raise UserError(f"model.tokenizer={cfg.tokenizer} needs a task with training text; this one has none")
    kind = CHARACTERS if cfg.tokenizer == CHARACTERS else family_of(cfg)
    folder = cache_dir / "tokenizers" / _fingerprint(corpus, kind, cfg.vocab_size)
    if not folder.is_dir():
        with new_folder(folder, replace=False) as temporary:
            _make(corpus, kind, cfg.vocab_size).save_pretrained(temporary)
    return Checkpoint(str(folder))


def _make(corpus: Sequence[str], kind: str, vocab_size: int) -> Any:
    if kind == CHARACTERS:
        return _list_characters(corpus, vocab_size)
    train = _train_wordpiece if kind in WORDPIECE_FAMILIES else _train_bytes
    return train(corpus, kind, vocab_size)


def _fingerprint(corpus: Sequence[str], kind: str, vocab_size: int) -> str:
    import tokenizers

    digest = hashlib.sha256(json.dumps([RECIPE, kind, vocab_size, tokenizers.__version__]).encode())
    for text in corpus:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()[:16]


def _train_wordpiece(corpus: Sequence[str], family: str, vocab_size: int) -> Any:
    """Lower-case WordPiece with BERT's special tokens.

    The trainer numbers characters in the order of a hash map and breaks ties of merges by these numbers, so two
    trainings differ. Here the characters are numbered beforehand, by passing them as "special tokens" of a training
    whose vocabulary alone is kept.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.normalizer = normalizers.BertNormalizer(lowercase=True)
    learner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    alphabet = _alphabet(learner.normalizer, corpus, limit=min(MAX_ALPHABET, vocab_size // 4))
    numbered = [*special.values(), *alphabet, *(f"##{character}" for character in alphabet)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=numbered,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    learner.train_from_iterator(corpus, trainer)

    made = Tokenizer(models.WordPiece(vocab=learner.get_vocab(), unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = learner.normalizer, learner.pre_tokenizer
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", numbered.index("[CLS]")), ("[SEP]", numbered.index("[SEP]"))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **{f"{role}_token": token for role, token in special.items()},
    )


def _alphabet(normalizer: Any, corpus: Sequence[str], limit: int) -> list[str]:
    """The ``limit`` most frequent characters (ties by code point), in order of code points."""
    counts: Counter[str] = Counter()
    for text in corpus:
        counts.update(normalizer.normalize_str(text))
    frequent = sorted((c for c in counts if not c.isspace()), key=lambda c: (-counts[c], c))
    return sorted(frequent[:limit])


def _train_bytes(corpus: Sequence[str], family: str, vocab_size: int) -> Any:
    """Byte-level BPE. RoBERTa wraps a text in ``<s> </s>``, OPT and Llama start it with ``<s>``, GPT-2 adds nothing."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>"}  # ids 0..3 as RoBERTa and OPT have them
    if family == "roberta":
        special |= {"cls": "<s>", "sep": "</s>", "mask": "<mask>"}
    names = list(dict.fromkeys(special.values()))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if vocab_size < len(names) + len(alphabet):
        raise UserError(
            f"model.vocab_size={vocab_size} is too small: bytes and special tokens alone need "
            f"{len(names) + len(alphabet)}"
        )
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=names, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(corpus, trainer)
    if family in BOS_FAMILIES:
        end = " </s>" if family == "roberta" else ""
        second = "</s> $B </s>" if family == "roberta" else "$B"
        made.post_processor = processors.TemplateProcessing(
            single=f"<s> $A{end}",
            pair=f"<s> $A{end} {second}",
            special_tokens=[("<s>", names.index("<s>")), ("</s>", names.index("</s>"))],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_input_names=["input_ids", "attention_mask"],
        **{f"{role}_token": token for role, token in special.items()},
    )


def _list_characters(corpus: Sequence[str], vocab_size: int) -> Any:
    """Every character is a token, newlines in any case: the ``vocab_size`` - 2 most frequent, by code point.

    All others are ``<unk>``, and so is ``<unk>`` where it stands in the text. ``<pad>`` never does.
    """
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    special = {"unk": "<unk>", "pad": "<pad>"}
    counts = Counter(character for text in corpus for character in text.replace(special["unk"], "") + "\n")
    kept = sorted(sorted(counts, key=lambda character: (-counts[character], character))[: vocab_size - len(special)])
    ids = {token: index for index, token in enumerate([*special.values(), *kept])}
    made = Tokenizer(models.BPE(vocab=ids, merges=[], unk_token=special["unk"], cache_capacity=0))
    made.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_input_names=["input_ids", "attention_mask"],
        **{f"{role}_token": token for role, token in special.items()},
    )
