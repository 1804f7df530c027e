"""BERT's masking, as a pure function of (seed, epoch, example): a resumed run masks what the first one would have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qexp.conf.errors import UserError
from qexp.models.predicted import IGNORED

REPLACED_BY_MASK = 0.8
REPLACED_BY_RANDOM = 0.1

EVALUATION = 2**64 - 1
CALIBRATION = 2**64 - 2
"""Streams of randomness beside the epochs 0, 1, 2, …"""


@dataclass(frozen=True)
class Masker:
    """Chooses ``probability`` of the ordinary tokens: 80 % become the mask token, 10 % any token, 10 % stay."""

    mask_id: int
    vocab_size: int
    special_ids: tuple[int, ...]
    """Never chosen: the marks that the tokenizer adds, padding and the mask itself (an unknown word may be)."""
    probability: float

    @classmethod
    def of(cls, tokenizer: Any, probability: float) -> Masker:
        if tokenizer.mask_token_id is None:
            raise UserError("this model's tokenizer has no mask token; use task.objective=causal_lm")
        marks = (
            *(tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id),
            *(tokenizer.pad_token_id, tokenizer.mask_token_id),
        )
        special = tuple(sorted({mark for mark in marks if mark is not None}))
        return cls(tokenizer.mask_token_id, len(tokenizer), special, probability)

    def mask(self, ids: NDArray[Any], *, seed: int, stream: int, index: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """``ids`` [T] -> (inputs [T], labels [T], -100 where nothing is predicted); int64.

        At least one token is chosen where there is an ordinary one, so that no loss is a mean over nothing.
        """
        random = np.random.Generator(np.random.Philox(key=_words(seed, stream), counter=_words(0, 0, 0, index)))
        draw, kind = random.random((2, len(ids)))
        word = random.integers(self.vocab_size, size=len(ids))
        inputs = ids.astype(np.int64)
        draw[np.isin(inputs, self.special_ids)] = np.inf
        chosen = (draw < self.probability) | ((draw == draw.min()) & np.isfinite(draw))
        labels = np.where(chosen, inputs, IGNORED)
        inputs[chosen & (kind < REPLACED_BY_MASK)] = self.mask_id
        random_word = chosen & (kind >= REPLACED_BY_MASK) & (kind < REPLACED_BY_MASK + REPLACED_BY_RANDOM)
        return np.where(random_word, word, inputs), labels


def _words(*values: int) -> NDArray[np.uint64]:
    return np.array(values, dtype=np.uint64)
