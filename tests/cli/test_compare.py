"""``qexp compare``: what is told of two records, with and without their predictions."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qexp.results.outcomes import Outcomes, write
from qexp.results.schema import Record
from qexp.results.store import Store

RANDOM = np.random.default_rng(0)


def windows(shift: float, examples: str = "e") -> Outcomes:
    return Outcomes("loss", RANDOM.normal(150 + shift, 1, 50), np.full(50, 60), examples)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


@pytest.fixture
def runs(store: Store, new_record: Callable[..., Record]) -> list[Record]:
    """Two methods at three seeds; those of seed 1 have predictions, on the same examples."""
    made = []
    for seed in (1, 2, 3):
        for number, method in enumerate(("vanilla", "gated_attention")):
            loss = 12.0 - number - seed / 10
            record = new_record(f"seed={seed}", f"method={method}", float=loss, w8a8=loss + 1 + seed / 9)
            if seed == 1:
                own = {"float": {"": windows(-9 * number)}, "w8a8": {"": windows(1.0)}}
                record = replace(record, artifacts=write(store.files("adhoc", record.cell_id), own))
                made.append(record)
            store.save(record)
    return made


def test_two_records_by_example_and_over_seeds(qexp: Any, runs: list[Record]) -> None:
    a, b = (one.cell_id for one in runs)
    found = json.loads(qexp("compare", a[:8], b[:8], "--json").out)
    float_, w8a8 = found["within_seed"]
    assert (float_["setting"], float_["examples"], float_["p"] < 1e-9) == ("float", ["loss", 50, 0, 50], True)
    assert float_["interval"]["low"] > 0 and float_["difference"] == pytest.approx(np.log(11.9 / 10.9))
    assert w8a8["examples"][:2] == ["loss", 50] and w8a8["why_not"] == ""
    seeds = found["over_seeds"][0]
    assert seeds["seeds"] == [1, 2, 3] and seeds["p_sign_flips"] == 0.25 and 0 < seeds["p_t"] < 0.05
    told = qexp("compare", a[:8], b[:8]).out
    assert "method: vanilla / gated_attention" in told and "0 / 50" in told
    assert "over seeds 1, 2, 3" in told


def test_one_record_compares_its_settings_with_float(qexp: Any, runs: list[Record]) -> None:
    found = json.loads(qexp("compare", runs[0].cell_id, "--json").out)
    assert [(one["setting"], one["beside"]) for one in found["within_seed"]] == [("w8a8", "float")]
    assert found["over_seeds"][0]["difference"] < 0


def test_unlike_examples_are_not_paired(qexp: Any, store: Store, runs: list[Record]) -> None:
    a, b = (one.cell_id for one in runs)
    write(store.files("adhoc", b), {"float": {"": windows(0.0, "other")}, "w8a8": {"": windows(0.0, "other")}})
    told = qexp("compare", a, b).out
    assert "not by example: they were evaluated on unlike examples (float perplexity, w8a8 perplexity)" in told


def test_without_predictions_the_figures_are_compared(qexp: Any, store: Store, runs: list[Record]) -> None:
    for one in runs:
        (store.files("adhoc", one.cell_id) / "predictions.npz").write_bytes(b"damaged")
    outcome = qexp("compare", *(one.cell_id for one in runs))
    assert outcome.code == 0 and "not by example: no predictions lie beside" in outcome.out


def test_nothing_to_compare_is_one_line(qexp: Any, store: Store, new_record: Callable[..., Record]) -> None:
    record = new_record("seed=1", float=12.0)
    store.save(record)
    outcome = qexp("compare", record.cell_id)
    assert outcome.code == 2 and "no setting beside float, so there is nothing to compare" in outcome.err
    assert qexp("compare", "ffff").code == 2
