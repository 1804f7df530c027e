"""``qexp show --scales``: the table, what it names, and where the picture is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

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
    assert lines[-1] == "picture   runs/scales/x/vanilla.png"


def test_json(qexp: Any, measured: None) -> None:
    assert json.loads(qexp("show", "--scales", "--json").out) == FOUND


def test_a_wrong_override_is_one_line(qexp: Any, measured: None) -> None:
    outcome = qexp("show", "--scales", "method=unit_scaling", "method.tau=2")
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
