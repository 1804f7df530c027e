"""Classification and regression of one text or a pair of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qexp.conf.errors import UserError
from qexp.results.outcomes import Outcomes
from qexp.results.schema import SECOND_SET, Metric
from qexp.runner.tasks.base import Example, Examples, ExampleTask, TokenTask, require_finite, shuffled
from qexp.runner.tasks.cache import Arrays
from qexp.runner.tasks.corpus import LABEL
from qexp.runner.tasks.encoding import encode_examples
from qexp.runner.tasks.formulas import FORMULAS
from qexp.runner.tasks.glue import GLUE


class LabelledTexts(Examples):
    """Token ids [t] of different lengths with their label."""

    def __init__(self, arrays: Arrays, labels: Tensor, indices: NDArray[np.int64]):
        self.arrays, self.labels, self.indices = arrays, labels, indices
        self.starts = np.concatenate([[0], arrays["ends"]])

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> Example:
        index = self.indices[i]
        here = slice(self.starts[index], self.starts[index + 1])
        ids = {name: values[here].astype(np.int64) for name, values in self.arrays.items() if name != "ends"}
        return {**{name: torch.from_numpy(values) for name, values in ids.items()}, "labels": self.labels[index]}


@dataclass(frozen=True)
class Padding:
    """Collator: pads to the longest text of the batch, on the tokenizer's side, and says so in ``attention_mask``."""

    pad_id: int
    pad_type_id: int
    left: bool

    @classmethod
    def of(cls, tokenizer: Any) -> Padding:
        if tokenizer.pad_token_id is None:
            raise UserError("this model's tokenizer has no padding token; classification needs one")
        return cls(tokenizer.pad_token_id, tokenizer.pad_token_type_id, tokenizer.padding_side == "left")

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        ids = [example["input_ids"] for example in examples]
        batch = {
            "input_ids": self._pad(ids, self.pad_id),
            "attention_mask": self._pad([torch.ones_like(i) for i in ids], 0),
        }
        if "token_type_ids" in examples[0]:
            batch["token_type_ids"] = self._pad([example["token_type_ids"] for example in examples], self.pad_type_id)
        return {**batch, "labels": torch.stack([example["labels"] for example in examples])}

    def _pad(self, rows: Sequence[Tensor], value: int) -> Tensor:
        width = max(len(row) for row in rows)
        fill = [row.new_full((width - len(row),), value) for row in rows]
        return torch.stack([torch.cat((f, r) if self.left else (r, f)) for f, r in zip(fill, rows, strict=True)])


def label_metrics(kind: str, subset: str | None) -> tuple[str, ...]:
    """Names of a labelled task's metrics, the primary one first."""
    return GLUE[subset or ""].metrics if kind == "glue" else ("accuracy",)


class LabelledTask(ExampleTask, TokenTask):
    """Predict the label of each text (or pair): the largest logit, or for regression the one output."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.metrics = label_metrics(self.cfg.kind, self.cfg.subset)
        self.primary_metric = self.metrics[0]
        self.collator = Padding.of(self.tokenizer)
        self.outcome = "score" if self.objective == "regression" else "class"

    def train(self) -> Examples:
        return self._examples("train")

    def calibration(self, n_examples: int, seed: int) -> Examples:
        split = self._calibration_split()
        return self._examples(split, shuffled(len(self._used(split)), seed)[:n_examples])

    def evaluation(self) -> Examples:
        return self._examples(self.corpus.eval_splits[0])

    def evaluation_sets(self) -> dict[str, Examples]:
        return {ending: self._examples(split) for ending, split in self._splits.items()}

    @property
    def _splits(self) -> dict[str, str]:
        return dict(zip(("", SECOND_SET), self.corpus.eval_splits, strict=False))

    def score(self, found: Mapping[str, Outcomes]) -> dict[str, Metric]:
        metrics: dict[str, Metric] = {}
        for ending, split in self._splits.items():
            one = found[ending]
            for name, value in self._score(one.values, one.references).items():
                what = f"{FORMULAS[name].definition}; {self.corpus.origin}, split {split}"
                definition = f"{what}; texts cut to {self.max_length} tokens"
                metrics[name + ending] = Metric(value, higher_is_better=True, n=len(one.values), definition=definition)
        return metrics

    def _contributions(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted and true class, or score."""
        require_finite(logits, self.name)
        return (logits.squeeze(-1) if self.outcome == "score" else logits.argmax(-1)), labels

    def _score(self, predictions: NDArray[Any], references: NDArray[Any]) -> dict[str, float]:
        if self.cfg.kind == "glue":
            from qexp.runner.tasks.glue_metric import compute

            return compute(str(self.cfg.subset), predictions, references)
        return {name: FORMULAS[name].compute(predictions, references) for name in self.metrics}

    def _used(self, split: str) -> NDArray[np.int64]:
        """Rows of the split that are used at all: only they are tokenised."""
        return self._indices(split, len(self.corpus.split(split)[LABEL]))

    def _examples(self, split: str, chosen: NDArray[np.int64] | None = None) -> Examples:
        """All used rows of a split, or those chosen among them."""
        kind = torch.float32 if self.objective == "regression" else torch.int64
        used = self._used(split)
        labels = torch.from_numpy(np.asarray(self.corpus.split(split)[LABEL])[used]).to(kind)
        return LabelledTexts(self._arrays(split), labels, np.arange(len(used)) if chosen is None else chosen)

    def _encode(self, split: str) -> Arrays:
        rows = self.corpus.split(split)
        columns = [[rows[column][i] for i in self._used(split)] for column in self.corpus.text_columns]
        return encode_examples(self.tokenizer, columns, self.max_length)

    def _encoding_settings(self, split: str) -> Mapping[str, Any]:
        used = self._used(split)
        return {"kind": "examples", "max_length": self.max_length, "rows": sha256(used.tobytes()).hexdigest()}
