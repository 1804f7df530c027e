"""The nine GLUE tasks: their columns, labels and official metrics (Wang et al., 2019, table 1)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GlueTask:
    text_columns: tuple[str, ...]
    label_names: tuple[str, ...] | None
    """In order of the label's number; None where the label is a number to be predicted."""
    metrics: tuple[str, ...]
    """Official metrics, the one to compare by first."""
    eval_suffixes: tuple[str, ...] = ("",)
    """MNLI is evaluated on two sets: ``validation_matched`` and ``validation_mismatched``."""


_SENTENCES = ("sentence1", "sentence2")
_ENTAILMENT = ("entailment", "not_entailment")

GLUE: dict[str, GlueTask] = {
    "cola": GlueTask(("sentence",), ("unacceptable", "acceptable"), ("matthews_correlation",)),
    "sst2": GlueTask(("sentence",), ("negative", "positive"), ("accuracy",)),
    "mrpc": GlueTask(_SENTENCES, ("not_equivalent", "equivalent"), ("f1", "accuracy")),
    "stsb": GlueTask(_SENTENCES, None, ("pearson", "spearmanr")),
    "qqp": GlueTask(("question1", "question2"), ("not_duplicate", "duplicate"), ("f1", "accuracy")),
    "mnli": GlueTask(
        ("premise", "hypothesis"),
        ("entailment", "neutral", "contradiction"),
        ("accuracy",),
        ("_matched", "_mismatched"),
    ),
    "qnli": GlueTask(("question", "sentence"), _ENTAILMENT, ("accuracy",)),
    "rte": GlueTask(_SENTENCES, _ENTAILMENT, ("accuracy",)),
    "wnli": GlueTask(_SENTENCES, ("not_entailment", "entailment"), ("accuracy",)),
}
