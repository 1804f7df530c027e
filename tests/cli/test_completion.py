"""Completion of overrides."""

from __future__ import annotations

from typing import Any

import pytest

from qexp.cli.completion import completions
from qexp.conf.catalog import choices


def test_groups_and_choices() -> None:
    assert completions([], "me") == ["method="]
    assert completions([], "method=ga") == ["method=gated_attention"]
    assert completions([], "seed=1") == []


def test_bash_splits_words_at_the_equals_sign() -> None:
    assert completions(["method", "="], "ga") == ["gated_attention"]
    assert completions(["method"], "=") == completions(["method"], "") == list(choices("method"))


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("qexp run method = ga", "gated_attention"),
        ("qexp run mod", "model="),
        ("qexp show --sites seed=1 model = minil", "minilm"),
        ("qexp sweep launcher = r", "ray"),
        ("qexp list mod", "models"),
    ],
)
def test_through_bash(qexp: Any, monkeypatch: pytest.MonkeyPatch, words: str, offered: str) -> None:
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    monkeypatch.setenv("_QEXP_COMPLETE", "complete_bash")
    assert qexp().out.split() == [offered]
