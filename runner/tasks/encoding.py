"""From rows of text to arrays of token ids."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]
ROWS_PER_CALL = 1000
_IDS_ONLY = {"return_attention_mask": False, "return_token_type_ids": False}


def encode_running_text(tokenizer: Any, rows: Sequence[str], joined_by: str | None) -> Ids:
    """Token ids [total] of running text.

    ``joined_by`` None: every row that is not blank is tokenised with the tokenizer's special tokens (BERT's
    ``[CLS] … [SEP]``, OPT's ``</s>``) and the rows are put one after the other; a tokenizer that adds none (GPT-2) gets
    its end-of-text token after each row. Otherwise all rows, blank ones included, are joined into one text first.
    """
    return _encode_rows(tokenizer, rows) if joined_by is None else _encode_text(tokenizer, joined_by.join(rows))


def cut(ids: Ids, length: int) -> Ids:
    """Blocks [N, length] of ``ids`` [total]; what is left over at the end is dropped."""
    blocks = len(ids) // length
    return ids[: blocks * length].reshape(blocks, length)


def _encode_rows(tokenizer: Any, rows: Sequence[str]) -> Ids:
    texts = [text for row in rows if (text := row.strip())]
    ends = tokenizer.num_special_tokens_to_add() == 0 and tokenizer.eos_token_id is not None
    end = [tokenizer.eos_token_id] if ends else []
    encoded = (row + end for row in _encode(tokenizer, texts))
    return np.fromiter(chain.from_iterable(encoded), dtype=np.int32)


def _encode_text(tokenizer: Any, text: str) -> Ids:
    return np.asarray(tokenizer(text, verbose=False, **_IDS_ONLY)["input_ids"], dtype=np.int32)


def encode_lines(tokenizer: Any, rows: Sequence[str]) -> Ids:
    """Token ids [total] of all rows as the lines of one text, blank ones too, by a tokenizer of characters.

    A character's id depends on no other one, so rows are taken one by one: all at once need gigabytes.
    """
    lines = [row if row.endswith("\n") else f"{row}\n" for row in rows]
    return np.fromiter(chain.from_iterable(_encode(tokenizer, lines)), dtype=np.int32)


def _encode(tokenizer: Any, texts: Sequence[str]) -> Any:
    for start in range(0, len(texts), ROWS_PER_CALL):
        rows = list(texts[start : start + ROWS_PER_CALL])
        yield from tokenizer(rows, verbose=False, **_IDS_ONLY)["input_ids"]


def encode_examples(tokenizer: Any, columns: Sequence[Sequence[str]], length: int) -> dict[str, NDArray[Any]]:
    """One or two texts an example, cut to ``length`` tokens: all ids in one array, and where each example ends.

    ``input_ids`` [total], ``ends`` [N], and ``token_type_ids`` [total] from tokenizers that tell the two texts apart.
    """
    flat: dict[str, list[Any]] = {"input_ids": [], "token_type_ids": []}
    lengths: list[int] = []
    for start in range(0, len(columns[0]), ROWS_PER_CALL):
        texts = [list(column[start : start + ROWS_PER_CALL]) for column in columns]
        encoded = tokenizer(*texts, truncation=True, max_length=length, verbose=False)
        lengths += [len(ids) for ids in encoded["input_ids"]]
        for name, values in flat.items():
            values += chain.from_iterable(encoded[name] if name in encoded else [])
    arrays: dict[str, NDArray[Any]] = {"input_ids": np.asarray(flat["input_ids"], dtype=np.int32)}
    arrays["ends"] = np.cumsum(lengths, dtype=np.int64)
    if flat["token_type_ids"]:
        arrays["token_type_ids"] = np.asarray(flat["token_type_ids"], dtype=np.uint8)
    return arrays
