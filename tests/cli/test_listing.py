"""``qexp list``: one line each, and the command."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qexp.cli.listing import KINDS
from qexp.conf.catalog import choices


@pytest.mark.parametrize("kind", [kind for kind in KINDS])
def test_every_choice_with_its_command(qexp: Any, kind: str) -> None:
    lines = qexp("list", kind).out.splitlines()
    names = choices(KINDS[kind])
    assert [line.split()[0] for line in lines[::2]] == list(names)
    assert all(line.strip().startswith("$ qexp ") for line in lines[1::2])


def test_without_a_kind_everything_is_named(qexp: Any) -> None:
    out = qexp("list").out
    for name in (*choices("method"), *choices("model"), *choices("task")):
        assert name in out


def test_json(qexp: Any) -> None:
    (first, *_) = json.loads(qexp("list", "methods", "--json").out)
    assert set(first) == {"name", "about", "command"}
    assert set(json.loads(qexp("list", "--json").out)) == set(KINDS)


def test_the_singular_serves_too_and_a_wrong_kind_is_an_error(qexp: Any) -> None:
    assert qexp("list", "method").out == qexp("list", "methods").out
    outcome = qexp("list", "modls")
    assert outcome.code == 2 and "did you mean models?" in outcome.err
