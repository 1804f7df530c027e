"""SQuAD's rows: from the hub's layout or the official JSON, with every training answer where it is said to be."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qexp.conf.errors import UserError
from qexp.runner.tasks.sources import READERS, Columns, require_columns

QUESTION, CONTEXT, ANSWERS = "question", "context", "answers"
COLUMNS = (QUESTION, CONTEXT, ANSWERS)
TEXT, START = "text", "answer_start"
MISPLACED = 0.01
"""Largest share of training answers that may be missing from their place: those questions are left out."""
_log = logging.getLogger(__name__)


def _read_official(path: Path, columns: Sequence[str]) -> Columns:
    """The official files, ``train-v1.1.json`` or ``dev-v2.0.json``."""
    try:
        rows = list(_rows(json.loads(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a readable JSON file: {str(error).splitlines()[0]}") from error
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is not in SQuAD's form, data[].paragraphs[].qas[]: {error!r}") from error
    return {column: [row[column] for row in rows] for column in columns}


def _rows(content: Any) -> Iterator[dict[str, Any]]:
    for article in content["data"]:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                answers = question["answers"]
                listed = {TEXT: [a[TEXT] for a in answers], START: [a[START] for a in answers]}
                yield {QUESTION: question[QUESTION], CONTEXT: paragraph[CONTEXT], ANSWERS: listed}


SQUAD_READERS = {**READERS, ".json": _read_official}


def checked(task: str, split: str, rows: Columns) -> Columns:
    """Rows with answers as ``{"text": [...], "answer_start": [...]}``, stripped; of ``train`` those to learn from.

    Raises ``UserError`` for a column that holds something else, and where many training answers are misplaced.
    """
    where = f"task={task}, split {split}"
    for column in (QUESTION, CONTEXT):
        empty = next((i for i, text in enumerate(rows[column]) if isinstance(text, str) and not text.strip()), None)
        if empty is not None:
            raise UserError(f"{where}: column {column!r} is blank in row {empty}")
    answers = [_answers(value, f"{where}, row {i}") for i, value in enumerate(rows[ANSWERS])]
    rows = {**rows, ANSWERS: answers}
    return _in_place(rows, where) if split == "train" else rows


def _answers(value: Any, where: str) -> dict[str, list[Any]]:
    """An answer's spaces at its ends belong to none of its tokens."""
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: column {ANSWERS!r} must hold {TEXT!r} and {START!r}, not {type(value).__name__}")
    require_columns((TEXT, START), list(value), f"{where}, {ANSWERS!r}")
    texts, starts = [str(text) for text in value[TEXT]], [int(start) for start in value[START]]
    if len(texts) != len(starts):
        raise UserError(f"{where}: {len(texts)} answers and {len(starts)} places of answers")
    pairs = [(t.strip(), s + len(t) - len(t.lstrip())) for t, s in zip(texts, starts, strict=True) if t.strip()]
    return {TEXT: [text for text, _ in pairs], START: [start for _, start in pairs]}


def _in_place(rows: Columns, where: str) -> Columns:
    """Rows without those whose first answer does not stand at its place in the context."""
    right = [_stands(context, answers) for context, answers in zip(rows[CONTEXT], rows[ANSWERS], strict=True)]
    wrong = right.count(False)
    if wrong > MISPLACED * len(right):
        first = right.index(False)
        text, start = rows[ANSWERS][first][TEXT][0], rows[ANSWERS][first][START][0]
        raise UserError(
            f"{where}: {wrong} of {len(right)} answers are not at their {START}; the first, in row {first}, is "
            f"{text!r}, and at {start} stands {rows[CONTEXT][first][start : start + len(text)]!r}"
        )
    if wrong:
        _log.warning("%s: left out %d questions whose answer is not at its %s", where, wrong, START)
    return {column: [v for v, ok in zip(values, right, strict=True) if ok] for column, values in rows.items()}


def _stands(context: str, answers: Mapping[str, list[Any]]) -> bool:
    if not answers[TEXT]:
        return True
    text, start = str(answers[TEXT][0]), int(answers[START][0])
    return start >= 0 and context.startswith(text, start)
