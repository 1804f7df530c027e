"""Extractive question answering: the answer to a question is a part of its context, or there is none (SQuAD)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from qexp.results.schema import Metric
from qexp.runner.tasks.answers import DEFINITIONS, F1
from qexp.runner.tasks.base import Examples, Progress, TokenTask, require_finite, run, shuffled
from qexp.runner.tasks.cache import Arrays
from qexp.runner.tasks.classification import LabelledTexts, Padding
from qexp.runner.tasks.spans import LONGEST_QUESTION, best_spans, encode_windows
from qexp.runner.tasks.squad import ANSWERS, CONTEXT, QUESTION, TEXT

LONGEST_ANSWER = 30
"""Tokens, as in BERT's own code."""
INPUTS = ("input_ids", "ends", "token_type_ids")


class QuestionTask(TokenTask):
    """Find first and last token of the answer in windows of ``max_length`` tokens, which share ``overlap`` of context.

    ``train_examples`` and ``eval_examples`` count questions; an example is a window, of which long contexts have
    several. In a window without the answer both tokens are its first one.
    """

    primary_metric = F1

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.collator = replace(Padding.of(self.tokenizer), left=False)  # as token numbers count

    def train(self) -> Examples:
        return self._examples("train")

    def calibration(self, n_examples: int, seed: int) -> Examples:
        split = self._calibration_split()
        return self._examples(split, shuffled(len(self._arrays(split)["rows"]), seed)[:n_examples])

    def evaluation(self) -> Examples:
        return self._examples(self.corpus.eval_splits[0])

    def evaluate(
        self, model: nn.Module, batch_size: int, device: torch.device | str, progress: Progress | None = None
    ) -> dict[str, Metric]:
        from qexp.runner.tasks.squad_metric import compute

        split = self.corpus.eval_splits[0]
        answers, used = self.corpus.split(split)[ANSWERS], self._used(split)
        references = [answers[row][TEXT] for row in used]
        found = compute(self.answers(model, batch_size, device, progress), references)
        return {
            name: Metric(found[name], higher_is_better=True, n=len(used), definition=f"{what}; {self._definition}")
            for name, what in DEFINITIONS.items()
        }

    def answers(
        self, model: nn.Module, batch_size: int, device: torch.device | str, progress: Progress | None = None
    ) -> list[str]:
        """The answer to every evaluated question, in their order; empty where the network finds none."""
        split = self.corpus.eval_splits[0]
        arrays, contexts = self._arrays(split), self.corpus.split(split)[CONTEXT]
        scores, nothing, characters = self._best(model, arrays, batch_size, device, progress)
        best, none = _best_windows(arrays["rows"], scores, nothing)
        absent = np.isneginf(scores[best])
        if self._some_have_none:
            absent |= none > scores[best]
        texts = [contexts[row][slice(*span)] for row, span in zip(self._used(split), characters[best], strict=True)]
        return ["" if is_absent else text.strip() for text, is_absent in zip(texts, absent, strict=True)]

    def _best(
        self, model: nn.Module, arrays: Arrays, batch_size: int, device: torch.device | str, progress: Progress | None
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Of every window the best span's score [N], that of no answer [N], and the span's characters [N, 2]."""
        scores, nothing, spans = [], [], []
        context = torch.from_numpy(arrays["context"]).to(device)
        report = progress or (lambda done, total: None)
        examples, done = self._examples(self.corpus.eval_splits[0]), 0
        for logits, labels in run(model, examples, self.collator, batch_size, device, report):
            require_finite(logits, self.name)
            score, first, last = best_spans(logits, context[done : done + len(labels)], LONGEST_ANSWER)
            scores.append(score)
            nothing.append(logits[:, :, 0].float().sum(-1))
            spans.append(torch.stack((first, last), -1))
            done += len(labels)
        first_token = np.concatenate([[0], arrays["ends"][:-1]])
        tokens = torch.cat(spans).cpu().numpy() + first_token[:, None]
        characters = np.stack([arrays["offsets"][tokens[:, side], side] for side in (0, 1)], -1)
        return torch.cat(scores).cpu().numpy(), torch.cat(nothing).cpu().numpy(), characters

    @cached_property
    def _some_have_none(self) -> bool:
        """Whether an empty answer may be given: some question of the data has no answer."""
        return any(not one[TEXT] for rows in self.corpus.splits.values() for one in rows[ANSWERS])

    @property
    def _definition(self) -> str:
        empty = "an empty answer where both ends on the first token score more; " if self._some_have_none else ""
        return (
            f"{self.corpus.origin}, split {self.corpus.eval_splits[0]}; windows of {self.max_length} tokens that share "
            f"{self.cfg.overlap} of context; of all spans of up to {LONGEST_ANSWER} tokens the one whose ends' logits "
            f"have the largest sum; {empty}questions cut to {LONGEST_QUESTION} tokens"
        )

    def _used(self, split: str) -> NDArray[np.int64]:
        return self._indices(split, len(self.corpus.split(split)[QUESTION]))

    def _examples(self, split: str, chosen: NDArray[np.int64] | None = None) -> Examples:
        arrays = self._arrays(split)
        labels = torch.from_numpy(arrays["labels"]).to(torch.int64)
        inputs = {name: arrays[name] for name in INPUTS if name in arrays}
        return LabelledTexts(inputs, labels, np.arange(len(labels)) if chosen is None else chosen)

    def _encode(self, split: str) -> Arrays:
        rows, used = self.corpus.split(split), self._used(split)
        questions, contexts, answers = ([rows[column][i] for i in used] for column in (QUESTION, CONTEXT, ANSWERS))
        return encode_windows(self.tokenizer, questions, contexts, answers, self.max_length, self.cfg.overlap)

    def _encoding_settings(self, split: str) -> Mapping[str, Any]:
        sizes = {"max_length": self.max_length, "overlap": self.cfg.overlap}
        return {"kind": "questions", **sizes, "rows": sha256(self._used(split).tobytes()).hexdigest()}


def _best_windows(rows: NDArray[Any], scores: NDArray[Any], nothing: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Of every question its window with the best span, and the least score of no answer among its windows.

    ``rows`` [N] ascend; all windows of a question stand together.
    """
    begins = np.flatnonzero(np.diff(rows, prepend=-1))
    order = np.lexsort((-scores, rows))
    return order[begins], np.minimum.reduceat(nothing, begins)
