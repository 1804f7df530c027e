"""Causal and masked language modelling on running text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from qexp.conf.errors import UserError
from qexp.models.predicted import IGNORED
from qexp.results.outcomes import Outcomes
from qexp.results.schema import Metric
from qexp.runner.tasks.base import Example, Examples, ExampleTask, TokenTask, require_finite, shuffled
from qexp.runner.tasks.cache import Arrays
from qexp.runner.tasks.encoding import cut, encode_running_text
from qexp.runner.tasks.masking import CALIBRATION, EVALUATION, Masker

EVALUATION_MASK_SEED = 0
"""Not the run's: every run of every method predicts the same masked tokens."""
LARGEST_MEAN = 700.0
"""In nats: its ``exp`` is still a number that JSON knows."""


class CausalBlocks(Examples):
    """Blocks [N, T] whose labels are the tokens themselves (the network shifts them)."""

    def __init__(self, blocks: NDArray[np.int32], indices: NDArray[np.int64]):
        self.blocks, self.indices = blocks, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> Example:
        ids = torch.from_numpy(self.blocks[self.indices[i]].astype(np.int64))
        return {"input_ids": ids, "labels": ids.clone()}


class MaskedBlocks(Examples):
    """Blocks [N, T] masked by a pure function of (seed, stream, number of the block).

    While training, the stream is the epoch: whoever iterates must call :meth:`set_epoch`
    (:class:`qexp.runner.tasks.epochs.TellEpoch` does for the Trainer).
    """

    def __init__(
        self, blocks: NDArray[np.int32], indices: NDArray[np.int64], masker: Masker, seed: int, stream: int = 0
    ):
        self.blocks, self.indices, self.masker, self.seed, self.stream = blocks, indices, masker, seed, stream

    def set_epoch(self, epoch: int) -> None:
        self.stream = epoch

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> Example:
        index = int(self.indices[i])
        inputs, labels = self.masker.mask(self.blocks[index], seed=self.seed, stream=self.stream, index=index)
        return {"input_ids": torch.from_numpy(inputs), "labels": torch.from_numpy(labels)}


def stack(examples: Sequence[Example]) -> dict[str, Tensor]:
    """Examples of one length -> batch; no padding, so no attention mask."""
    return {name: torch.stack([example[name] for example in examples]) for name in examples[0]}


class LanguageTask(ExampleTask, TokenTask):
    """Predict every next token (``causal_lm``) or masked ones (``masked_lm``) in blocks of ``max_length`` tokens."""

    primary_metric = "perplexity"
    collator = staticmethod(stack)
    outcome = "loss"

    @cached_property
    def _masker(self) -> Masker:
        return Masker.of(self.tokenizer, self.cfg.mask_probability)

    def train(self) -> Examples:
        blocks = self._blocks("train")
        indices = self._indices("train", len(blocks))
        if self.objective == "causal_lm":
            return CausalBlocks(blocks, indices)
        return MaskedBlocks(blocks, indices, self._masker, self.seed)

    def calibration(self, n_examples: int, seed: int) -> Examples:
        split = self._calibration_split()
        blocks = self._blocks(split)
        indices = self._indices(split, len(blocks)) if split == "train" else np.arange(len(blocks))
        drawn = indices[shuffled(len(indices), seed)[:n_examples]]
        return self._fixed(blocks, drawn, seed, CALIBRATION)

    def evaluation(self) -> Examples:
        split = self.corpus.eval_splits[0]
        blocks = self._blocks(split)
        return self._fixed(blocks, self._indices(split, len(blocks)), EVALUATION_MASK_SEED, EVALUATION)

    def _fixed(self, blocks: NDArray[np.int32], indices: NDArray[np.int64], seed: int, stream: int) -> Examples:
        if self.objective == "causal_lm":
            return CausalBlocks(blocks, indices)
        return MaskedBlocks(blocks, indices, self._masker, seed, stream)

    def score(self, found: Mapping[str, Outcomes]) -> dict[str, Metric]:
        """``exp`` of the mean negative log-likelihood over all predicted tokens, each counting alike.

        (The paper's code averages the means of batches: there a batch with few masked tokens counts like any other.)
        Beyond exp(700), the largest that a record holds is given.
        """
        mean, count = self._mean_loss(found[""])
        perplexity = math.exp(min(mean, LARGEST_MEAN))
        return {"perplexity": Metric(perplexity, higher_is_better=False, n=count, definition=self.definition)}

    @staticmethod
    def _mean_loss(found: Outcomes) -> tuple[float, int]:
        """Mean negative log-likelihood in nats over all predicted tokens, and their number."""
        total, count = np.cumsum(found.values)[-1], int(found.references.sum())  # summed in the order of the windows
        return float(total) / count, count

    def _contributions(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Summed negative log-likelihood of each window in nats, and its number of predicted tokens."""
        losses, counts = [], []
        for row_logits, row_labels in zip(*self._aligned(logits, labels), strict=True):
            predicted = row_labels != IGNORED
            each = F.cross_entropy(row_logits[predicted].float(), row_labels[predicted], reduction="none")
            losses.append(each.double().sum())
            counts.append(predicted.sum())
        return require_finite(torch.stack(losses), self.name), torch.stack(counts)

    def _aligned(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits beside the token they predict: in causal models the next one."""
        return (logits[:, :-1], labels[:, 1:]) if self.objective == "causal_lm" else (logits, labels)

    @property
    def definition(self) -> str:
        """What a perplexity of this task is."""
        if self.objective == "causal_lm":
            what = "each token from those before it in its window (a window's first token is context only)"
        else:
            share = f"{self.cfg.mask_probability:.0%}"
            what = f"{share} of the tokens, chosen once for all runs (80 % masked, 10 % random, 10 % kept)"
        rows = "each row tokenised with special tokens" if self.cfg.joined_by is None else "rows joined into one text"
        blank = {None: "", "\n\n": " by a blank line"}.get(self.cfg.joined_by, f" by {self.cfg.joined_by!r}")
        return (
            f"exp(mean negative log-likelihood per token), predicting {what}; "
            f"{self.corpus.origin}, split {self.corpus.eval_splits[0]}, {rows}{blank}, "
            f"text as stored (not detokenised); "
            f"windows of {self.max_length} tokens, stride {self.max_length} (no overlap), the remainder dropped; "
            f"tokens of {self._tokenizer_name}; the mean is over all predicted tokens, not over batches"
        )

    @property
    def _tokenizer_name(self) -> str:
        return f"a {type(self.tokenizer).__name__} of {len(self.tokenizer)} entries"

    def _blocks(self, split: str) -> NDArray[np.int32]:
        blocks = cut(self._arrays(split)["ids"], self.max_length)
        if not len(blocks):
            raise UserError(
                f"task={self.name}: split {split} is shorter than one block of {self.max_length} tokens; "
                f"use a smaller task.max_length or more text"
            )
        return blocks

    def _encode(self, split: str) -> Arrays:
        rows = self.corpus.split(split)[self.corpus.text_columns[0]]
        return {"ids": encode_running_text(self.tokenizer, rows, self.cfg.joined_by)}

    def _encoding_settings(self, split: str) -> Mapping[str, Any]:
        return {"kind": "text", "joined_by": self.cfg.joined_by}
