"""``qexp show --scales``: the tables, what they name, and where the picture is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qexp.results.schema import Record
from qexp.results.store import Store

CAST = {"underflow": 0.25, "overflow": 0.0, "snr_db": 20.0}
FOUND = {
    "scales": {
        "h.0.mlp.c_fc": {"weight": {"std": 1.0, "elements": 9, "fp8": CAST}, "gradient": {"std": 0.002, "elements": 9}},
        "lm_head": {"activation": {"std": 0.98, "elements": 9}},
    },
    "band": [0.1, 10.0],
    "casting": {"exponents": [0], "snr_db": {"FP16": [73.6]}},
}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qexp.runner.scales.scales_of", lambda config: FOUND)
    monkeypatch.setattr("qexp.runner.scales.draw_scales", lambda config, found: Path("runs/scales/x/vanilla.png"))


def test_the_table_and_what_lies_outside(qexp: Any, measured: None) -> None:
    outcome = qexp("show", "--scales", "model=tiny_gpt2", "task=wikitext2")
    lines = outcome.out.splitlines()
    assert outcome.code == 0
    assert [line.split() for line in lines if line.startswith("h.0.mlp.c_fc")] == [["h.0.mlp.c_fc", "1", "0.002"]]
    assert "within [0.1, 10]: 2 of 3; outside: gradient at the output of h.0.mlp.c_fc" in lines
    assert "fp8 underflow: up to 25.00% of elements (weight of h.0.mlp.c_fc)" in lines
    assert [line.split() for line in lines if line.startswith("FP16")] == [["FP16", "73.6"]]
    assert lines[-1] == "picture   runs/scales/x/vanilla.png"


def test_json(qexp: Any, measured: None) -> None:
    assert json.loads(qexp("show", "--scales", "--json").out) == FOUND


def test_a_wrong_override_is_one_line(qexp: Any, measured: None) -> None:
    outcome = qexp("show", "--scales", "method=unit_scaling", "method.tau=2")
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)


def test_a_record_s_training(qexp: Any, record: Record) -> None:
    curves = {"weight": [0.5, 0.25, 1.0], "gradient": [1.0, 0.001, None]}
    scales = {"kind": "scale_curves", "band": [0.1, 10.0], "steps": [0, 50, 99], "tensors": {"lm_head": curves}}
    picture = f"{record.cell_id}/scales.png"
    Store(Path("runs")).save(replace(record, training={"scales": scales}, artifacts={"scales": picture}))
    lines = qexp("show", "--scales", record.cell_id[:6]).out.splitlines()
    assert [line.split() for line in lines if line.startswith("lm_head")] == [
        ["lm_head", "0.5", "1", "0.25", "50", "1", "99"],
        ["lm_head", "1", "0.001", "0.001", "50", "1", "0"],
    ]
    assert "weights: 0.5 to 0.5 at step 0, 1 to 1 at step 99; 1 of 1 always within 0.1 to 10" in lines
    assert lines[-1] == f"picture   runs/adhoc/{picture}"
    assert json.loads(qexp("show", "--scales", record.cell_id, "--json").out) == scales


def test_a_record_without_scales_is_one_line(qexp: Any, record: Record) -> None:
    outcome = qexp("show", "--scales", record.cell_id)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.endswith("has no scales of its training: run it with train.scales_every=50\n")
