"""Embedded questions: which definition of a Python source does what its docstring says?

A context lists neighbouring definitions of one file with the first sentence of their docstrings; a question quotes one
of these sentences, and its answer is the name before it. It asks for finding, not for understanding: for trying out
what answers questions where SQuAD is not at hand, and no measure of a network.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from qexp.runner.tasks.pydocs import Docstring, digest_of, docstrings_by_file, is_prose, split_by
from qexp.runner.tasks.squad import ANSWERS, CONTEXT, QUESTION, START, TEXT

NEIGHBOURS = 4
"""Definitions of a context."""
SHARES = {"validation": 10}
"""Per cent of the source files in each held-out split; the rest is for training."""

_SENTENCE = re.compile(r"(.+?)(?:[.:](?:\s|$)|$)")


@cache
def question_splits() -> dict[str, list[dict[str, Any]]]:
    """SQuAD's rows by split: all questions of a source file are in one split."""
    rows = [(digest_of(file), row) for file, docstrings in docstrings_by_file() for row in _questions(docstrings)]
    return split_by(rows, SHARES)


def _questions(docstrings: Iterable[Docstring]) -> Iterator[dict[str, Any]]:
    """One question of the first definition of each name in a file, where its sentence has not stood there before."""
    sentences: dict[str, str] = {}
    for docstring in docstrings:
        sentence = _first_sentence(docstring.text)
        if docstring.name and is_prose(sentence) and sentence not in sentences.values():
            sentences.setdefault(docstring.name, sentence)
    names = list(sentences)
    for first in range(0, len(names) - NEIGHBOURS + 1, NEIGHBOURS):
        entries = {name: f"{name}: {sentences[name]}." for name in names[first : first + NEIGHBOURS]}
        context, start = " ".join(entries.values()), 0
        for name, entry in entries.items():
            answers = {TEXT: [name], START: [start]}
            yield {QUESTION: f"What does this: {sentences[name]}?", CONTEXT: context, ANSWERS: answers}
            start += len(entry) + 1


def _first_sentence(text: str) -> str:
    """Of a docstring's first paragraph, without the point at its end."""
    paragraph = " ".join(re.split(r"\n\s*\n", text.strip())[0].split())
    found = _SENTENCE.match(paragraph)
    return found[1].strip() if found else ""
