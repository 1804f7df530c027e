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


def test_executed_figures_stand_beside_simulated_ones_with_their_gap_and_certificate(
    qexp: Any, executed_record: Record
) -> None:
    lines = [line.rstrip() for line in qexp("show", executed_record.cell_id).out.splitlines()]
    figures = [line.split() for line in lines if line.startswith(("float ", "w8a8 "))]
    assert figures[:3] == [
        ["float", "12.50"],
        ["w8a8", "simulated", "15.25", "+2.750"],
        ["w8a8", "executed", "15.75", "+3.250"],
    ]
    for line in (
        "w8a8 executed in integers",
        "  gap         perplexity +0.5 against simulated · 99.95 % of 872 largest logits the same · "
        "logits at most 0.0123 apart, 0.0001 on average",
        "  control     simulated in float64 against float32: 100 % of 64 largest logits the same · "
        "logits at most 0.0119 apart",
        "  certificate 3 of 4 products in int8: 1 linear, 2 attention · back end avx2, 1 thread",
        "  in float    classifier (the head has no sites)",
        "  weights     10.6 MB instead of 42.0 MB (0.252 ×) in memory",
    ):
        assert line in lines


def test_the_certificate_has_a_row_for_every_product(qexp: Any, executed_record: Record) -> None:
    out = qexp("show", executed_record.cell_id[:8]).out
    rows = [line.split() for line in out.splitlines()]
    codes = ["uint8", "×", "int8", "→", "int32"]
    assert ["layers.0.query", "linear", "qexp::int8_linear", *codes, "avx2", "28"] in rows
    assert ["layers.0.context", "attention_context", "qexp::int8_linear", *codes, "avx2", "28"] in rows
    assert ["classifier", "aten::addmm", "the", "head", "has", "no", "sites", "28"] in rows
    assert "embeddings: embeddings.token (int8)" in out
    assert "other operations in float: aten::native_layer_norm 364" in out


def test_a_run_that_was_only_simulated_says_nothing_of_execution(qexp: Any, record: Record) -> None:
    out = qexp("show", record.cell_id).out
    assert "certificate" not in out and "simulated" not in out
