"""``qexp show``: a record again, and a model's sites."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest

from qexp.results.schema import Record
from qexp.results.store import to_json
from qexp.runner.compose import compose_dict


def test_a_record_by_the_beginning_of_its_id(qexp: Any, record: Record) -> None:
    outcome = qexp("show", record.cell_id[:6])
    assert outcome.code == 0
    for text in ("15.25", "windows of 64 tokens", f"runs/adhoc/{record.cell_id}.json"):
        assert text in outcome.out


def test_it_says_the_command_that_makes_it_again(qexp: Any, record: Record) -> None:
    (line,) = (line for line in qexp("show", record.cell_id).out.splitlines() if line.startswith("rerun"))
    words = shlex.split(line)
    assert words[:3] == ["rerun", "qexp", "run"]
    assert compose_dict(words[3:]) == record.config


def test_json(qexp: Any, record: Record) -> None:
    assert qexp("show", record.cell_id, "--json").out == to_json(record)


@pytest.mark.parametrize("args", [[], ["aa", "bb"], ["0123456789abcdef"], ["../x"]])
def test_what_is_not_there_is_one_line(qexp: Any, record: Record, args: list[str]) -> None:
    outcome = qexp("show", *args)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)


def test_sites_of_a_model_with_what_each_carries(qexp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sites = [
        {"name": f"layers.{layer}.ffn_output", "role": "ffn_output", "kind": "output", "carries": "second FFN layer"}
        for layer in range(3)
    ]
    monkeypatch.setattr("qexp.runner.sites.sites_of", lambda config: sites)
    (line,) = (line for line in qexp("show", "--sites", "scale=smoke").out.splitlines() if "ffn_output" in line)
    assert line.split() == ["ffn_output", "output", "3", "second", "FFN", "layer"]
    assert json.loads(qexp("show", "--sites", "--json").out) == sites
