"""Embedded questions: which definition of a Python source does what its docstring says?

A context lists neighbouring definitions of one file with the first sentence of their docstrings; a question quotes one
of these sentences, and its answer is the name before it. It asks for finding, not for understanding: for trying out
what answers questions where SQuAD is not at hand, and no measure of a network.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from operator import attrgetter
from typing import Any

from qexp.runner.tasks.pydocs import Docstring, all_docstrings, digest_of, is_prose, split_by
from qexp.runner.tasks.squad import ANSWERS, CONTEXT, QUESTION, START, TEXT

NEIGHBOURS = 4
"""Definitions of a context."""
SHARES = {"validation": 10}
"""Per cent of the source files in each held-out split; the rest is for training."""

_SENTENCE = re.compile(r"(.+?)(?:[.:](?:\s|$)|$)")


@cache
def question_splits() -> dict[str, list[dict[str, Any]]]:
    """SQuAD's rows by split: all questions of a source file are in one split."""
    rows = [
        (digest_of(file), row)
        for file, docstrings in groupby(all_docstrings(), key=attrgetter("file"))
        for row in _questions(list(docstrings))
    ]
    return split_by(rows, SHARES)


def _questions(docstrings: list[Docstring]) -> Iterator[dict[str, Any]]:
    """One question of every definition of a file whose name and sentence stand there once."""
    sentences: dict[str, str] = {}
    for docstring in docstrings:
        sentence = _first_sentence(docstring.text)
        if docstring.name and is_prose(sentence) and sentence not in sentences.values():
            sentences.setdefault(docstring.name, sentence)
    names = list(sentences)
    for first in range(0, len(names) - NEIGHBOURS + 1, NEIGHBOURS):
        together = names[first : first + NEIGHBOURS]
        context = " ".join(f"{name}: {sentences[name]}." for name in together)
        start = 0
        for name in together:
            answers = {TEXT: [name], START: [start]}
            yield {QUESTION: f"What does this: {sentences[name]}?", CONTEXT: context, ANSWERS: answers}
            start += len(f"{name}: {sentences[name]}. ")


def _first_sentence(text: str) -> str:
    """Of a docstring's first paragraph, without the point at its end."""
    paragraph = " ".join(re.split(r"\n\s*\n", text.strip())[0].split())
    found = _SENTENCE.match(paragraph)
    return found[1].strip() if found else ""
