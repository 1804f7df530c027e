"""What all tasks have in common: subsets, batches, and the loop of an evaluation."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from qexp.conf.errors import RunError
from qexp.conf.schema import Objective, TaskConfig
from qexp.results.schema import Metric
from qexp.runner.tasks.cache import Arrays, cached_arrays, tokenizer_fingerprint
from qexp.runner.tasks.corpus import Corpus

Example = dict[str, Tensor]
Examples = Dataset[Example]
Collator = Callable[[Sequence[Example]], dict[str, Tensor]]
Progress = Callable[[int, int], None]
"""Called with (batches done, batches in all)."""


class Source(Protocol):
    """What a corpus of any kind tells of itself."""

    @property
    def num_labels(self) -> int | None: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def splits(self) -> Mapping[str, Any]: ...


class Task(ABC):
    """A corpus as a network sees it: examples to train on, examples to calibrate with, and an evaluation.

    ``num_labels`` is None for language modelling and 1 for regression. ``fingerprint`` says which data it is. ``ood``:
    tasks of other distributions for the same network, which are evaluated only.
    """

    primary_metric: str
    collator: Collator

    def __init__(
        self,
        cfg: TaskConfig,
        source: Source,
        objective: Objective,
        max_length: int,
        seed: int,
    ):
        self.cfg, self.source, self.objective, self.max_length, self.seed = cfg, source, objective, max_length, seed
        self.name, self.num_labels, self.fingerprint = cfg.name, source.num_labels, source.fingerprint
        self.ood: tuple[Task, ...] = ()
        self.skipped = 0

    @abstractmethod
    def train(self) -> Examples:
        """Training examples; ``task.train_examples`` of them after a shuffle by the run's seed."""

    @abstractmethod
    def calibration(self, n_examples: int, seed: int) -> Examples:
        """``n_examples`` of the training examples (all, if there are fewer), drawn by ``seed``.

        A corpus without a training split (``wikitext2_raw``) gives its validation split instead.
        """

    @abstractmethod
    def evaluation(self) -> Examples:
        """What :meth:`evaluate` evaluates (of several sets, the first), in a fixed order."""

    @abstractmethod
    def evaluate(
        self, model: nn.Module, batch_size: int, device: torch.device | str, progress: Progress | None = None
    ) -> dict[str, Metric]:
        """All metrics of ``model``, which gives ``logits``. Raises ``RunError`` where they are not finite numbers."""

    def held_out(self) -> Task | None:
        """This task on as many evaluation examples that no figure rests on: those behind the first ``eval_examples``.

        None where there are none.
        """
        if self.cfg.eval_examples is None:
            return None
        other = self._copy()
        other.skipped = self.cfg.eval_examples
        examples: Any = other.evaluation()
        return other if len(examples) else None

    def _copy(self) -> Task:
        return copy.copy(self)

    def _indices(self, split: str, available: int) -> NDArray[np.int64]:
        """Which examples of a split are used: ``train_examples`` after a shuffle, or ``eval_examples`` in order."""
        if split == "train":
            wanted = self.cfg.train_examples
            few = wanted is not None and wanted < available
            return shuffled(available, self.seed)[:wanted] if few else np.arange(available)
        end = available if self.cfg.eval_examples is None else self.skipped + self.cfg.eval_examples
        return np.arange(self.skipped, min(end, available))

    def _calibration_split(self) -> str:
        return "train" if "train" in self.source.splits else "validation"


class TokenTask(Task):
    """A task of text: its examples are made of token ids, which are kept between runs."""

    def __init__(
        self,
        cfg: TaskConfig,
        corpus: Corpus,
        tokenizer: Any,
        objective: Objective,
        max_length: int,
        seed: int,
        cache_dir: Path,
    ):
        super().__init__(cfg, corpus, objective, max_length, seed)
        self.corpus, self.tokenizer, self.cache_dir = corpus, tokenizer, cache_dir
        self._encoded: dict[str, Arrays] = {}

    def _copy(self) -> Task:
        other = copy.copy(self)
        other._encoded = {}  # of other rows
        return other

    @abstractmethod
    def _encode(self, split: str) -> Arrays:
        """The split as token ids."""

    @abstractmethod
    def _encoding_settings(self, split: str) -> Mapping[str, Any]:
        """All that the arrays of a split depend on beside the corpus and the tokenizer."""

    def _arrays(self, split: str) -> Arrays:
        """The split as token ids, from memory, from the cache, or tokenised now."""
        if split not in self._encoded:
            self.corpus.split(split)
            key = {
                "corpus": self.fingerprint,
                "split": split,
                "tokenizer": tokenizer_fingerprint(self.tokenizer),
                **self._encoding_settings(split),
            }
            self._encoded[split] = cached_arrays(self.cache_dir / "tokens", key, lambda: self._encode(split))
        return self._encoded[split]


def shuffled(n: int, seed: int) -> NDArray[np.int64]:
    return np.random.Generator(np.random.Philox(seed)).permutation(n)


def batches(examples: Any, collate: Collator, batch_size: int) -> Iterator[dict[str, Tensor]]:
    """All examples in order."""
    for start in range(0, len(examples), batch_size):
        yield collate([examples[i] for i in range(start, min(start + batch_size, len(examples)))])


def run(
    model: nn.Module, examples: Any, collate: Collator, batch_size: int, device: torch.device | str, report: Progress
) -> Iterator[tuple[Tensor, Tensor]]:
    """(logits, labels) of every batch, without gradients, in evaluation mode; the model's mode is restored after."""
    total = -(-len(examples) // batch_size)
    with torch.no_grad(), _evaluation_mode(model):
        for done, batch in enumerate(batches(examples, collate, batch_size), start=1):
            labels = batch.pop("labels").to(device)
            logits = model(**{name: tensor.to(device) for name, tensor in batch.items()}).logits
            yield logits, labels
            report(done, total)


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def require_finite(value: Tensor, task: str) -> Tensor:
    if not bool(torch.isfinite(value).all()):
        raise RunError(f"the network's output on task {task} is NaN or infinite")
    return value
