"""Language modelling on characters, as in unit scaling's character models (arXiv 2303.11257)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qexp.conf.errors import UserError
from qexp.models.predicted import IGNORED
from qexp.results.outcomes import Outcomes
from qexp.results.schema import Metric
from qexp.runner.tasks.base import Example, Examples, shuffled
from qexp.runner.tasks.cache import Arrays
from qexp.runner.tasks.encoding import encode_lines
from qexp.runner.tasks.language import LanguageTask


class Windows(Examples):
    """Windows of a text ``ids`` [total] that begin at ``starts`` [N].

    Labels are the characters themselves (the network shifts them); a window's first ``overlap`` ones are context only,
    but for the text's first window.
    """

    def __init__(self, ids: NDArray[np.int32], starts: NDArray[np.int64], length: int, overlap: int):
        self.ids, self.starts, self.length, self.overlap = ids, starts, length, overlap

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, i: int) -> Example:
        start = int(self.starts[i])
        characters = torch.from_numpy(self.ids[start : start + self.length].astype(np.int64))
        labels = characters.clone()
        if start:
            labels[: self.overlap] = IGNORED
        return {"input_ids": characters, "labels": labels}


class SampledWindows(Windows):
    """``count`` windows an epoch that begin anywhere, drawn with replacement: a pure function of (seed, epoch).

    Whoever iterates must call :meth:`set_epoch`, as with ``MaskedBlocks``. ``repeated``: those of epoch 0 every time.
    """

    def __init__(self, ids: NDArray[np.int32], length: int, overlap: int, count: int, seed: int, repeated: bool):
        super().__init__(ids, np.empty(0, np.int64), length, overlap)
        self.count, self.seed, self.repeated = count, seed, repeated
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        key = np.array([self.seed, 0 if self.repeated else epoch], dtype=np.uint64)
        random = np.random.Generator(np.random.Philox(key=key))
        self.starts = random.integers(len(self.ids) - self.length + 1, size=self.count)


class CharacterTask(LanguageTask):
    """Predict every next character in windows of ``max_length``, of which ``overlap`` lie in the window before too.

    Trained on windows that begin anywhere; evaluated on windows in order, so that every character is scored once.
    """

    primary_metric = "bits_per_character"

    def train(self) -> Examples:
        ids, wanted = self._ids("train"), self.cfg.train_examples
        count = wanted or max(1, len(ids) // (self.max_length - self.cfg.overlap))
        return SampledWindows(ids, self.max_length, self.cfg.overlap, count, self.seed, repeated=wanted is not None)

    def calibration(self, n_examples: int, seed: int) -> Examples:
        windows = self._windows(self._calibration_split())
        windows.starts = windows.starts[shuffled(len(windows), seed)[:n_examples]]
        return windows

    def evaluation(self) -> Examples:
        split = self.corpus.eval_splits[0]
        windows = self._windows(split)
        windows.starts = windows.starts[self._indices(split, len(windows))]
        return windows

    def score(self, found: Mapping[str, Outcomes]) -> dict[str, Metric]:
        """Mean negative log-likelihood over all scored characters, in bits."""
        mean, count = self._mean_loss(found[""])
        return {"bits_per_character": Metric(mean / math.log(2), False, count, self.definition)}

    @property
    def definition(self) -> str:
        """What the bits per character of this task are."""
        overlap = f"the first {self.cfg.overlap} context only" if self.cfg.overlap else "the first one context only"
        return (
            "mean negative log-likelihood per character / ln 2, predicting each character from those before it in its "
            f"window; {self.corpus.origin}, split {self.corpus.eval_splits[0]}, rows as lines; "
            f"windows of {self.max_length} characters in order, {overlap}, the remainder dropped; a vocabulary of "
            f"{len(self.tokenizer)}: the training text's characters and an unknown one, as <unk> in the text is too; "
            "the mean is over all predicted characters, not over batches"
        )

    def _windows(self, split: str) -> Windows:
        """All windows of a split, in order."""
        ids, overlap = self._ids(split), self.cfg.overlap
        starts = np.arange(0, len(ids) - self.max_length + 1, self.max_length - overlap)
        return Windows(ids, starts, self.max_length, overlap)

    def _ids(self, split: str) -> NDArray[np.int32]:
        ids: NDArray[np.int32] = self._arrays(split)["ids"]
        if len(ids) < self.max_length:
            raise UserError(
                f"task={self.name}: split {split} is shorter than one window of {self.max_length} characters; "
                "use a smaller task.max_length or more text"
            )
        return ids

    def _encode(self, split: str) -> Arrays:
        rows = self.corpus.split(split)[self.corpus.text_columns[0]]
        return {"ids": encode_lines(self.tokenizer, rows)}

    def _encoding_settings(self, split: str) -> Mapping[str, Any]:
        return {"kind": "characters"}
