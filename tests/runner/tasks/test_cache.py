"""The cache of tokenised data: by content, whole or not at all, and never trusted when damaged."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qexp.conf.errors import RunError
from qexp.runner.tasks.cache import Arrays, cached_arrays, tokenizer_fingerprint


class Counting:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Arrays:
        self.calls += 1
        return {"ids": np.arange(5, dtype=np.int32), "ends": np.array([2, 5])}


def same(a: Arrays, b: Arrays) -> bool:
    return set(a) == set(b) and all(np.array_equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def test_the_same_key_is_built_once_and_read_back_bit_for_bit(tmp_path: Path) -> None:
    build = Counting()
    first = cached_arrays(tmp_path / "deep", {"a": 1, "b": None}, build)
    again = cached_arrays(tmp_path / "deep", {"b": None, "a": 1}, build)
    assert build.calls == 1 and same(first, again)
    cached_arrays(tmp_path / "deep", {"a": 2, "b": None}, build)
    assert build.calls == 2
    assert [path.suffix for path in (tmp_path / "deep").iterdir()] == [".npz", ".npz"], "a temporary file was left"


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "text"])
def test_a_damaged_file_is_set_aside_and_made_again(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    build = Counting()
    expected = cached_arrays(tmp_path, {}, build)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    at = whole.index(np.arange(5, dtype=np.int32).tobytes())
    flipped = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
    path.write_bytes({"cut": whole[:-30], "empty": b"", "flipped": flipped, "text": b"hello"}[damage])
    with caplog.at_level(logging.WARNING):
        assert same(cached_arrays(tmp_path, {}, build), expected)
    assert build.calls == 2 and "set aside" in caplog.text
    assert path.with_suffix(".corrupt").exists()
    assert same(cached_arrays(tmp_path, {}, build), expected) and build.calls == 2


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> Arrays:
        raise ValueError("no")

    with pytest.raises(ValueError):
        cached_arrays(tmp_path, {}, fail)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_a_run_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot keep tokenised text"):
        cached_arrays(tmp_path / "file" / "below", {}, Counting())


def test_a_tokenizers_fingerprint_is_of_what_it_does(bert_tokenizer: Any, gpt_tokenizer: Any) -> None:
    before = tokenizer_fingerprint(bert_tokenizer)
    bert_tokenizer(["w1 w2 w3", "w1"], truncation=True, max_length=3, padding=True)
    assert tokenizer_fingerprint(bert_tokenizer) == before
    bert_tokenizer(["w1"])
    assert tokenizer_fingerprint(bert_tokenizer) == before != tokenizer_fingerprint(gpt_tokenizer)
