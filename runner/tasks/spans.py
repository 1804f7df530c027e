"""Questions with their contexts as windows of tokens, and the best answer of every window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qexp.conf.errors import UserError
from qexp.runner.tasks.encoding import ROWS_PER_CALL
from qexp.runner.tasks.squad import START, TEXT

LONGEST_QUESTION = 64
"""Tokens of a question that are read, as in BERT's own code; the rest is cut off."""
NOWHERE = (0, 0)
"""Start and end of an answer that a window does not hold: both on its first token, ``[CLS]``."""

Window = dict[str, NDArray[Any]]
NO_WINDOWS: Window = {
    **{"input_ids": np.empty(0, np.int32), "ends": np.empty(0, np.int64), "rows": np.empty(0, np.int64)},
    **{name: np.empty((0, 2), np.int64) for name in ("offsets", "context", "labels")},
}
"""Of no questions."""


def encode_windows(
    tokenizer: Any,
    questions: Sequence[str],
    contexts: Sequence[str],
    answers: Sequence[Mapping[str, Any]],
    max_length: int,
    overlap: int,
) -> dict[str, NDArray[Any]]:
    """``[CLS] question [SEP] part of the context [SEP]`` for N windows; parts of one context share ``overlap`` tokens.

    As :func:`~qexp.runner.tasks.encoding.encode_examples`, and ``offsets`` [total, 2] (each token's characters, from
    and to), ``rows`` [N] (whose window it is), ``context`` [N, 2] (its first and last token of the context) and
    ``labels`` [N, 2] (first and last token of the first answer, or :data:`NOWHERE`).
    """
    questions = _cut_questions(tokenizer, questions, max_length, overlap)
    windows: list[Window] = []
    for begin in range(0, len(questions), ROWS_PER_CALL):
        here = slice(begin, begin + ROWS_PER_CALL)
        encoded = tokenizer(
            list(questions[here]),
            list(contexts[here]),
            truncation="only_second",
            max_length=max_length,
            stride=overlap,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            verbose=False,
        )
        for index, row in enumerate(encoded["overflow_to_sample_mapping"]):
            windows.append(_window(encoded, index, begin + row, answers[begin + row]))
    if not windows:
        return dict(NO_WINDOWS)
    arrays = {name: np.concatenate([window[name] for window in windows]) for name in windows[0]}
    return {**arrays, "ends": np.cumsum([len(window["input_ids"]) for window in windows], dtype=np.int64)}


def _cut_questions(tokenizer: Any, questions: Sequence[str], max_length: int, overlap: int) -> list[str]:
    """Questions of as many tokens as leave room for one new token of context in every window."""
    room = max_length - tokenizer.num_special_tokens_to_add(pair=True) - overlap - 1
    if room < 1:
        raise UserError(
            f"task.max_length={max_length} leaves no room for a question beside task.overlap={overlap} tokens of "
            "context: a longer window, or a smaller overlap"
        )
    limit = min(LONGEST_QUESTION, room)
    cut: list[str] = []
    for begin in range(0, len(questions), ROWS_PER_CALL):
        texts = [question.lstrip() for question in questions[begin : begin + ROWS_PER_CALL]]
        offsets = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ends = [pairs[limit - 1][1] if len(pairs) > limit else None for pairs in offsets["offset_mapping"]]
        cut += [text[:end] for text, end in zip(texts, ends, strict=True)]
    return cut


def _window(encoded: Any, index: int, row: int, answers: Mapping[str, Any]) -> Window:
    tokens = [i for i, part in enumerate(encoded.sequence_ids(index)) if part == 1]
    first, last = (tokens[0], tokens[-1]) if tokens else (1, 0)
    offsets = np.asarray(encoded["offset_mapping"][index], dtype=np.int32)
    window = {
        "input_ids": np.asarray(encoded["input_ids"][index], dtype=np.int32),
        "offsets": offsets,
        "rows": np.asarray([row]),
        "context": np.asarray([[first, last]]),
        "labels": np.asarray([_label(offsets[first : last + 1], first, answers)]),
    }
    if "token_type_ids" in encoded:
        window["token_type_ids"] = np.asarray(encoded["token_type_ids"][index], dtype=np.uint8)
    return window


def _label(offsets: NDArray[np.int32], first: int, answers: Mapping[str, Any]) -> tuple[int, int]:
    """The tokens of the first answer within the context's ``offsets`` [n, 2], counted from ``first``."""
    if not answers[TEXT] or not len(offsets):
        return NOWHERE
    begin = answers[START][0]
    end = begin + len(answers[TEXT][0])
    if begin < offsets[0, 0] or end > offsets[-1, 1]:
        return NOWHERE
    start = np.searchsorted(offsets[:, 0], begin, side="right") - 1
    return first + int(start), first + int(np.searchsorted(offsets[:, 1], end, side="left"))


def best_spans(logits: Tensor, context: Tensor, longest: int) -> tuple[Tensor, Tensor, Tensor]:
    """Score [B], first and last token [B] of the best span of 1 to ``longest`` tokens of the context.

    Of all such spans (no list of n best starts and ends first) the one with the largest sum of its start's and its
    end's logit. ``logits`` [B, 2, T]; ``context`` [B, 2] as in :func:`encode_windows`. Without a token of the context
    the score is -inf.
    """
    tokens = torch.arange(logits.shape[-1], device=logits.device)
    inside = (tokens >= context[:, :1]) & (tokens <= context[:, 1:])
    start, end = logits.float().masked_fill(~inside[:, None], -torch.inf).unbind(1)
    ends = torch.nn.functional.pad(end, (0, longest - 1), value=-torch.inf).unfold(1, longest, 1)
    score, index = (start[..., None] + ends).flatten(1).max(1)
    first = index.div(longest, rounding_mode="floor")
    return score, first, first + index % longest
