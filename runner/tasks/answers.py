"""SQuAD's official metrics (Rajpurkar et al., 2016 and 2018): exact match and F1 of answers as text."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

EXACT_MATCH, F1 = "exact_match", "f1"
_NORMALISED = "lower-cased, without punctuation, articles and extra spaces"
DEFINITIONS = {
    F1: f"mean over questions of the largest F1 of the words shared with a reference answer, {_NORMALISED}",
    EXACT_MATCH: f"share of questions whose answer is one of the references, {_NORMALISED}",
}
"""In order: the metric to compare by first."""
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower-cased, without ASCII punctuation, without the words a, an and the, one space between words."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(prediction: str, reference: str) -> float:
    return float(normalise(prediction) == normalise(reference))


def f1(prediction: str, reference: str) -> float:
    """2PR / (P + R) of words with their repetitions; where either is empty, 1 if both are and else 0."""
    words, wanted = normalise(prediction).split(), normalise(reference).split()
    if not words or not wanted:
        return float(words == wanted)
    shared = (Counter(words) & Counter(wanted)).total()
    return 2 * shared / (len(words) + len(wanted))


def scores(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Means over N questions, 0 to 1. A question without a reference answer has the empty one, as have those whose
    references are nothing but punctuation and articles."""
    return {name: _mean_of_best(one, predictions, references) for name, one in ((F1, f1), (EXACT_MATCH, exact_match))}


def _mean_of_best(
    score: Callable[[str, str], float], predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> float:
    pairs = zip(predictions, references, strict=True)
    return sum(max(score(answer, text) for text in _known(texts)) for answer, texts in pairs) / len(predictions)


def _known(references: Sequence[str]) -> list[str]:
    return [text for text in references if normalise(text)] or [""]
