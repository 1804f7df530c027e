"""A corpus: the rows that a task is made of, before any tokenizer. No torch here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np

from qexp.conf.errors import UserError
from qexp.conf.schema import Objective, TaskConfig
from qexp.runner.tasks import pydocs, pydocs_questions, squad
from qexp.runner.tasks.glue import GLUE
from qexp.runner.tasks.sources import Columns, load_splits

LABEL = "label"


@dataclass(frozen=True)
class Corpus:
    """Rows by split. ``label_names`` is None for running text and for regression."""

    name: str
    objective_default: Objective | None
    """None: the model's family decides between causal and masked language modelling."""
    text_columns: tuple[str, ...]
    label_names: tuple[str, ...] | None
    splits: Mapping[str, Columns]
    eval_splits: tuple[str, ...]
    """Split names that an evaluation uses; the first gives the plain metric names."""
    origin: str
    """What the rows are, for the definitions of metrics."""

    @property
    def num_labels(self) -> int | None:
        """Outputs of a classifier; 1 for regression, None for running text and for questions."""
        if self.objective_default in (None, "question_answering"):
            return None
        return len(self.label_names) if self.label_names else 1

    def split(self, name: str) -> Columns:
        if name not in self.splits:
            raise UserError(f"task={self.name} has no split {name!r} here; it has {', '.join(self.splits)}")
        return self.splits[name]

    def texts(self) -> Iterator[str]:
        """The training texts, for training a tokenizer. Nothing is looked up before the first is asked for."""
        rows = self.split("train")
        for column in self.text_columns:
            yield from rows[column]

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of what all rows hold, wherever they were read from."""
        digest = sha256()
        for split, columns in sorted(self.splits.items()):
            for column, values in sorted(columns.items()):
                digest.update(f"\0{split}\0{column}\0{len(values)}\0".encode())
                for value in values:
                    text = _as_text(value)
                    digest.update(f"{len(text)}:{text}".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()[:16]


def _as_text(value: Any) -> str:
    """A text, a label or a question's answers as what a fingerprint is made of."""
    if isinstance(value, Mapping):
        return json.dumps(value, sort_keys=True)
    return value if isinstance(value, str) else repr(float(value))


def load_evaluated_text(cfg: TaskConfig, data_dir: str | None) -> Corpus:
    """Running text with the evaluated split alone. Raises ``UserError`` where it is missing or malformed."""
    corpus = _load_text(cfg, data_dir, beside=()) if cfg.kind == "text" else _load_pydocs_text(cfg, data_dir)
    corpus = replace(corpus, splits={split: corpus.split(split) for split in corpus.eval_splits})
    _check_texts(corpus)
    return corpus


def load_corpus(cfg: TaskConfig, data_dir: str | None) -> Corpus:
    """Rows of the task: training split where there is one, and what it is evaluated on.

    Raises ``UserError`` where data is missing, malformed, or its labels are hidden.
    """
    corpus = _LOADERS[cfg.kind](cfg, data_dir)
    for split in corpus.eval_splits:
        corpus.split(split)
    if corpus.num_labels is not None:
        _check_labels(corpus)
    _check_texts(corpus)
    if corpus.objective_default == "question_answering":
        splits = {split: squad.checked(corpus.name, split, rows) for split, rows in corpus.splits.items()}
        return replace(corpus, splits=splits)
    return corpus


def _load_text(cfg: TaskConfig, data_dir: str | None, beside: tuple[str, ...] = ("train", "validation")) -> Corpus:
    splits = load_splits(cfg, data_dir, [cfg.text_column], dict.fromkeys((*beside, cfg.eval_split)))
    return Corpus(cfg.name, None, (cfg.text_column,), None, splits, (cfg.eval_split,), cfg.subset or cfg.name)


def _load_glue(cfg: TaskConfig, data_dir: str | None) -> Corpus:
    task = GLUE.get(cfg.subset or "")
    if task is None:
        raise UserError(f"task.subset={cfg.subset} is no GLUE task; choose from {', '.join(GLUE)}")
    eval_splits = tuple(cfg.eval_split + suffix for suffix in task.eval_suffixes)
    splits = load_splits(cfg, data_dir, [*task.text_columns, LABEL], ("train", *eval_splits))
    kind: Objective = "classification" if task.label_names else "regression"
    return Corpus(cfg.name, kind, task.text_columns, task.label_names, splits, eval_splits, f"GLUE {cfg.subset}")


def _load_pydocs_text(cfg: TaskConfig, data_dir: str | None) -> Corpus:
    splits = {name: {"text": [text for text, _ in rows]} for name, rows in pydocs.text_splits().items()}
    return Corpus(cfg.name, None, ("text",), None, splits, (cfg.eval_split,), pydocs.origin())


def _load_pydocs_labels(cfg: TaskConfig, data_dir: str | None) -> Corpus:
    names = tuple(pydocs.AREAS)
    splits: dict[str, Columns] = {
        split: {"text": [text for text, _ in rows], LABEL: [names.index(area) for _, area in rows]}
        for split, rows in pydocs.labelled_splits().items()
    }
    return Corpus(cfg.name, "classification", ("text",), names, splits, (cfg.eval_split,), pydocs.origin())


def _load_squad(cfg: TaskConfig, data_dir: str | None) -> Corpus:
    wanted = dict.fromkeys(("train", cfg.eval_split))
    splits = load_splits(cfg, data_dir, squad.COLUMNS, wanted, squad.SQUAD_READERS)
    texts = (squad.QUESTION, squad.CONTEXT)
    return Corpus(cfg.name, "question_answering", texts, None, splits, (cfg.eval_split,), f"data of task={cfg.name}")


def _load_pydocs_questions(cfg: TaskConfig, data_dir: str | None) -> Corpus:
    splits: dict[str, Columns] = {
        split: {column: [row[column] for row in rows] for column in squad.COLUMNS}
        for split, rows in pydocs_questions.question_splits().items()
    }
    texts = (squad.QUESTION, squad.CONTEXT)
    return Corpus(cfg.name, "question_answering", texts, None, splits, (cfg.eval_split,), pydocs.origin())


_LOADERS = {
    "text": _load_text,
    "characters": _load_text,
    "glue": _load_glue,
    "squad": _load_squad,
    "pydocs_text": _load_pydocs_text,
    "pydocs_labels": _load_pydocs_labels,
    "pydocs_questions": _load_pydocs_questions,
}


def _check_labels(corpus: Corpus) -> None:
    for split, columns in corpus.splits.items():
        labels = np.asarray(columns[LABEL])
        if labels.dtype.kind not in "iuf" or not np.isfinite(labels).all():
            raise UserError(f"task={corpus.name}, split {split}: column {LABEL!r} must hold numbers")
        if (labels == -1).all():
            raise UserError(
                f"task={corpus.name}: the labels of split {split} are hidden; use task.eval_split=validation"
            )
        if corpus.label_names is None:
            continue
        outside = labels[(labels < 0) | (labels >= len(corpus.label_names)) | (labels % 1 != 0)]
        if outside.size:
            expected = f"0 to {len(corpus.label_names) - 1} ({', '.join(corpus.label_names)})"
            raise UserError(f"task={corpus.name}, split {split}: label {outside[0]} does not fit {expected}")


def _check_texts(corpus: Corpus) -> None:
    for split, columns in corpus.splits.items():
        for column in corpus.text_columns:
            wrong = next((value for value in columns[column] if not isinstance(value, str)), None)
            if wrong is not None:
                kind = type(wrong).__name__
                raise UserError(f"task={corpus.name}, split {split}: column {column!r} must hold text, not {kind}")
