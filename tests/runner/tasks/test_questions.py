"""Question answering: windows, labels, the best span, SQuAD's metrics, and data that does not fit."""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qexp.conf.errors import UserError
from qexp.conf.schema import TaskConfig
from qexp.runner.tasks import build_task, load_corpus
from qexp.runner.tasks.answers import exact_match, f1, normalise, scores
from qexp.runner.tasks.questions import QuestionTask
from qexp.runner.tasks.spans import NOWHERE, best_spans, encode_windows

CONTEXT = " ".join(f"w{i}" for i in range(20))
CLS, W0 = 2, 5


def row(question: str, answer: str | None, context: str = CONTEXT) -> dict[str, Any]:
    """A row whose answer stands at the first place where it is found."""
    found = {"text": [], "answer_start": []} if answer is None else {}
    found = found or {"text": [answer], "answer_start": [context.index(str(answer))]}
    return {"id": "x", "title": "t", "context": context, "question": question, "answers": found}


def write(folder: Path, **splits: list[dict[str, Any]]) -> None:
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


@pytest.fixture
def make(tmp_path: Path, bert_tokenizer: Any) -> Callable[..., QuestionTask]:
    def build(**changes: Any) -> QuestionTask:
        settings = {"kind": "squad", "folder": str(tmp_path), "max_length": 32, "overlap": 4, **changes}
        cfg = TaskConfig(name="squad", **settings)
        corpus = load_corpus(cfg, None)
        task = build_task(cfg, corpus, bert_tokenizer, "question_answering", cfg.max_length, 0, tmp_path / "cache")
        assert isinstance(task, QuestionTask)
        return task

    return build


def oracle(answers: dict[int, int]) -> Callable[[Tensor], Tensor]:
    """Logits [B, 2, T] of 9 at the token of the answer to the question that begins with this token; else 0."""

    def logits(ids: Tensor) -> Tensor:
        wanted = torch.tensor([answers.get(int(first), -1) for first in ids[:, 1]])
        at = (ids == wanted[:, None]) & (torch.arange(ids.shape[1]) > 2)
        return 9.0 * at[:, None].expand(-1, 2, -1).float()

    return logits


def test_a_short_context_is_one_window_with_the_answers_tokens(tmp_path: Path, make: Callable[..., Any]) -> None:
    write(tmp_path, train=[row("w30 w31", "w4 w5 w6")], validation=[row("w30", None)])
    example = make().train()[0]
    assert example["input_ids"].tolist() == [CLS, W0 + 30, W0 + 31, 3, *range(W0, W0 + 20), 3]
    start, end = example["labels"].tolist()
    assert example["input_ids"][start : end + 1].tolist() == [W0 + 4, W0 + 5, W0 + 6]
    assert make().evaluation()[0]["labels"].tolist() == [*NOWHERE]


@given(first=st.integers(0, 59), length=st.integers(1, 9), window=st.integers(12, 40), overlap=st.integers(0, 6))
def test_windows_cover_a_long_context_and_whoever_holds_the_answer_says_where(
    bert_tokenizer: Any, first: int, length: int, window: int, overlap: int
) -> None:
    """Answers at the borders of windows, and longer than what windows share, too."""
    words = [f"w{i % 40}" for i in range(60)]
    context, last = " ".join(words), min(first + length, 60) - 1
    begin = len(" ".join([*words[:first], ""]))
    text = " ".join(words[first : last + 1])
    answers = {"text": [text], "answer_start": [begin]}
    arrays = encode_windows(bert_tokenizer, ["w1 w2"], [context], [answers], window, overlap)
    parts = np.split(np.arange(arrays["ends"][-1]), arrays["ends"][:-1])
    seen, held = [], []
    for part, (a, b), (start, end) in zip(parts, arrays["context"], arrays["labels"], strict=True):
        assert len(part) <= window
        offsets = arrays["offsets"][part]
        seen.append(range(offsets[a, 0], offsets[b, 1]))
        held.append(offsets[a, 0] <= begin and begin + len(text) <= offsets[b, 1])
        found = context[offsets[start, 0] : offsets[end, 1]]
        assert found == text if held[-1] else (start, end) == NOWHERE
    assert (seen[0].start, seen[-1].stop) == (0, len(context))
    assert all(after.start <= before.stop + 1 for before, after in pairwise(seen))
    assert any(held) or length > overlap


def test_a_long_question_is_cut_so_that_context_has_room(bert_tokenizer: Any) -> None:
    question = " ".join(f"w{i % 40}" for i in range(100))
    none: dict[str, list[Any]] = {"text": [], "answer_start": []}
    for length, kept in ((128, 64), (32, 24)):
        arrays = encode_windows(bert_tokenizer, [question], [CONTEXT], [none], length, 4)
        assert arrays["context"][0, 0] == kept + 2
    with pytest.raises(UserError, match="task.max_length=8 leaves no room for a question beside task.overlap=4"):
        encode_windows(bert_tokenizer, [question], [CONTEXT], [none], 8, 4)


@given(st.data())
def test_the_best_span_is_that_of_a_search_through_all(data: st.DataObject) -> None:
    length, longest = data.draw(st.integers(3, 12)), data.draw(st.integers(1, 5))
    first = data.draw(st.integers(1, length - 1))
    last = data.draw(st.integers(first, length - 1))
    logits = torch.randn(1, 2, length, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    score, start, end = best_spans(logits, torch.tensor([[first, last]]), longest)
    spans = [(i, j) for i in range(first, last + 1) for j in range(i, min(i + longest, last + 1))]
    best = max(spans, key=lambda span: float(logits[0, 0, span[0]] + logits[0, 1, span[1]]))
    assert (int(start), int(end)) == best
    assert float(score) == float(logits[0, 0, best[0]] + logits[0, 1, best[1]])


def test_a_window_without_context_has_no_span() -> None:
    assert best_spans(torch.zeros(1, 2, 4), torch.tensor([[1, 0]]), 3)[0].tolist() == [-torch.inf]


def test_the_answer_is_the_best_of_all_windows(tmp_path: Path, make: Callable[..., Any], scripted: Any) -> None:
    rows = [row("w30", "w19"), row("w31", "w3"), row("w32", "w10")]
    write(tmp_path, train=rows, validation=rows)
    task = make(max_length=12, overlap=2)
    assert len(task.evaluation()) > 2 * len(rows)
    network = scripted(oracle({W0 + 30: W0 + 19, W0 + 31: W0 + 3, W0 + 32: W0 + 11}))
    assert task.answers(network, 4, "cpu") == ["w19", "w3", "w11"]
    found = task.evaluate(network, 4, "cpu")
    assert {name: round(metric.value, 6) for name, metric in found.items()} == {"f1": 0.666667, "exact_match": 0.666667}
    assert all(metric.n == 3 and "empty answer" not in metric.definition for metric in found.values())


@pytest.mark.parametrize(("nothing", "given"), [(-1.0, ["w3", "w1"]), (5.0, ["w3", ""]), (10.0, ["", ""])])
def test_no_answer_is_given_where_it_scores_more_in_every_window(
    tmp_path: Path, make: Callable[..., Any], scripted: Any, nothing: float, given: list[str]
) -> None:
    write(tmp_path, train=[row("w30", "w3")], validation=[row("w30", "w3"), row("w39", None)])

    def answer(ids: Tensor) -> Tensor:
        logits = oracle({W0 + 30: W0 + 3})(ids)
        logits[:, :, 0] = nothing
        logits[:, :, 4] += 0.1
        return logits

    task = make()
    assert task.answers(scripted(answer), 2, "cpu") == given
    expected = {("w3", "w1"): 0.5, ("w3", ""): 1.0, ("", ""): 0.5}[tuple(given)]
    metric = task.evaluate(scripted(answer), 2, "cpu")["f1"]
    assert metric.value == expected and "empty answer" in metric.definition


def test_the_padding_never_changes_an_answer(tmp_path: Path, make: Callable[..., Any], scripted: Any) -> None:
    rows = [row("w30 w31 w32 w33", "w19"), row("w31", "w3", "w2 w3 w4")]
    write(tmp_path, train=rows, validation=rows)
    network = scripted(oracle({W0 + 30: W0 + 19, W0 + 31: W0 + 3}))
    assert make().answers(network, 2, "cpu") == make().answers(network, 1, "cpu") == ["w19", "w3"]


def test_examples_count_questions_and_calibration_windows(tmp_path: Path, make: Callable[..., Any]) -> None:
    write(tmp_path, train=[row(f"w{i}", "w4") for i in range(9)], validation=[row("w1", "w2")] * 5)
    task = make(max_length=12, overlap=2, train_examples=3, eval_examples=2)
    windows = len(make(max_length=12, overlap=2).evaluation()) // 5
    assert (len(task.train()), len(task.evaluation())) == (3 * windows, 2 * windows)
    assert len(task.calibration(4, 0)) == 4
    held_out = task.held_out()
    assert held_out is not None and len(held_out.evaluation()) == 2 * windows
    assert make(eval_examples=5).held_out() is None


def slow_f1(prediction: str, reference: str) -> float:
    """SQuAD 2.0's own script, step by step."""

    def words(text: str) -> list[str]:
        text = "".join(c for c in text.lower() if c not in set(string.punctuation))
        return re.sub(r"\b(a|an|the)\b", " ", text).split()

    gold, given = words(reference), words(prediction)
    if len(gold) == 0 or len(given) == 0:
        return float(gold == given)
    same = sum((Counter(gold) & Counter(given)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(given), same / len(gold)
    return 2 * precision * recall / (precision + recall)


TEXTS = st.lists(st.sampled_from(["the", "A", "river", "River,", "in", "1872.", "an", "U.S.", "é", "-"]), max_size=6)


@given(TEXTS, TEXTS)
def test_f1_is_that_of_the_official_script(prediction: list[str], reference: list[str]) -> None:
    a, b = " ".join(prediction), "  ".join(reference)
    assert f1(a, b) == pytest.approx(slow_f1(a, b), abs=1e-12)
    assert f1(a, b) == f1(b, a) and (f1(a, b) == 1.0 or not exact_match(a, b))


@pytest.mark.parametrize(
    ("text", "normal"), [("The  U.S. Army!", "us army"), ("an apple a day", "apple day"), ("Theory", "theory")]
)
def test_what_normalising_leaves(text: str, normal: str) -> None:
    assert normalise(text) == normal


def test_scores_take_the_best_reference_and_none_is_the_empty_answer() -> None:
    predictions = ["the Wye", "on the river Wye", "", "1500", ""]
    references = [["Wye"], ["Wye", "river Wye"], [], [], ["1500"]]
    found = scores(predictions, references)
    assert found == {"f1": pytest.approx((1 + 0.8 + 1 + 0 + 0) / 5), "exact_match": pytest.approx(2 / 5)}
    assert scores(["..."], [["the"]]) == {"f1": 1.0, "exact_match": 1.0}


def test_the_official_files_are_the_same_data(tmp_path: Path, make: Callable[..., Any]) -> None:
    rows = [row("w30", "w3"), row("w31", None)]
    write(tmp_path, train=rows, validation=rows)
    ours = make().fingerprint
    for path in tmp_path.glob("*.jsonl"):
        path.unlink()
    answers: list[Any] = [[{"text": "w3", "answer_start": CONTEXT.index("w3")}], []]
    questions = [{**r, "answers": given} for r, given in zip(rows, answers, strict=True)]
    content = {"version": "v2.0", "data": [{"title": "t", "paragraphs": [{"context": CONTEXT, "qas": questions}]}]}
    for name in ("train-v2.0.json", "dev-v2.0.json"):
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    assert make().fingerprint == ours


def test_spaces_around_an_answer_belong_to_no_token(tmp_path: Path, make: Callable[..., Any]) -> None:
    spaced = row("w30", "w3")
    spaced["answers"] = {"text": [" w3 "], "answer_start": [CONTEXT.index("w3") - 1]}
    write(tmp_path, train=[spaced], validation=[row("w30", "w3")])
    task = make()
    assert task.train()[0]["labels"].tolist() == task.evaluation()[0]["labels"].tolist()


def test_a_few_misplaced_answers_are_left_out_and_many_are_an_error(
    tmp_path: Path, make: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    right, wrong = row("w30", "w3"), row("w30", "w3")
    wrong["answers"] = {"text": ["w3"], "answer_start": [0]}
    write(tmp_path, train=[right] * 199 + [wrong], validation=[wrong])
    assert len(make().train()) == 199 and "left out 1 questions" in caplog.text
    write(tmp_path, train=[right, wrong])
    with pytest.raises(UserError, match="1 of 2 answers are not at their answer_start.*'w3', and at 0 stands 'w0'"):
        make()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": "w3"}, "row 0: column 'answers' must hold 'text' and 'answer_start', not str"),
        ({"answers": {"text": ["w3"]}}, "'answers' has no column answer_start; its columns are text"),
        ({"answers": {"text": ["w3"], "answer_start": []}}, "1 answers and 0 places"),
        ({"context": " "}, "column 'context' is blank in row 0"),
        ({"question": 3}, "column 'question' must hold text, not int"),
    ],
)
def test_what_does_not_fit_is_one_line(
    tmp_path: Path, make: Callable[..., Any], change: dict[str, Any], message: str
) -> None:
    write(tmp_path, train=[row("w30", "w3")], validation=[row("w30", "w3") | change])
    with pytest.raises(UserError, match=message):
        make()


def test_without_data_the_message_says_what_works() -> None:
    cfg = TaskConfig(name="squad", kind="squad", path="rajpurkar/squad", folder="squad", max_length=32)
    wanted = r"rajpurkar/squad is neither .*squad/train\*\.parquet or the official train\*\.json, or use task=pydocs"
    with pytest.raises(UserError, match=wanted):
        load_corpus(cfg, None)
