"""Identities of experiments and of their trained networks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from qexp.conf.identity import VOLATILE_KEYS
from qexp.conf.schema import ExperimentConfig
from qexp.runner import identity
from qexp.runner.identity import cell_id, training_id
from qexp.runner.rerun import config_of

BASE: dict[str, Any] = {
    "method": [{"name": "clipped_softmax", "settings": {"gamma": -0.03, "zeta": 1.0}}],
    "model": {"name": "tiny", "source": "scratch", "dimensions": {"hidden_size": 32}},
    "task": {"name": "pydocs", "kind": "pydocs_text"},
    "quant": {"name": "paper"},
    "train": {"name": "short", "max_steps": 3},
    "eval": {},
    "tracking": {"name": "none", "mode": "none"},
}


def config(**changes: Any) -> ExperimentConfig:
    """The base configuration; ``train__max_steps=4`` changes a key inside a group."""
    data = json.loads(json.dumps(BASE))
    for key, value in changes.items():
        group, _, name = key.partition("__")
        if name:
            data[group][name] = value
        else:
            data[group] = value
    return TypeAdapter(ExperimentConfig).validate_python(data)


def test_ids_are_sixteen_hexadecimal_digits_and_differ() -> None:
    ids = cell_id(config()), training_id(config())
    assert all(len(identity) == 16 and int(identity, 16) >= 0 for identity in ids)
    assert ids[0] != ids[1]


def test_ids_are_the_same_in_another_process_with_another_hash_seed() -> None:
    program = (
        "import json, sys; from pydantic import TypeAdapter; from qexp.conf.schema import ExperimentConfig as C;"
        "from qexp.runner.identity import cell_id, training_id;"
        "cfg = TypeAdapter(C).validate_python(json.load(sys.stdin)); print(cell_id(cfg), training_id(cfg))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(BASE),
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "7"},
    )
    assert run.stdout.split() == [cell_id(config()), training_id(config())]


def test_the_digest_is_over_the_documented_text() -> None:
    """SHA-256 of compact, sorted ASCII JSON: computable without qexp, on any Python."""
    text = '{"a":[1,0,-0.03],"b":"\\u03b3"}'
    import hashlib

    assert identity._digest({"b": "γ", "a": (1.0, -0.0, -3e-2)}) == hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize("key", VOLATILE_KEYS)
def test_volatile_keys_change_no_id(key: str) -> None:
    other: dict[str, Any] = {
        "tracking": {"name": "wandb", "project": "x"},
        "kernels": {"int8": "reference"},
        "results_dir": "elsewhere",
        "table": "t2",
        "data_dir": "data",
        "threads": 3,
        "device": "cpu",
    }
    changed = config(**{key: other[key]})
    assert (cell_id(changed), training_id(changed)) == (cell_id(config()), training_id(config()))


@pytest.mark.parametrize(
    ("group", "key", "value"),
    [("train", "save_steps", 7), ("train", "logging_steps", 7), ("train", "keep_model", False)],
)
def test_how_often_is_saved_changes_no_id(group: str, key: str, value: Any) -> None:
    changed = config(**{f"{group}__{key}": value})
    assert (cell_id(changed), training_id(changed)) == (cell_id(config()), training_id(config()))


@pytest.mark.parametrize(
    "changes",
    [
        {"quant__bits": ["w8a6"]},
        {"quant__calibration": {"seed": 1}},
        {"quant__weight_step_ratio": 1.1},
        {"eval__outlier_batches": 2},
        {"eval__integer": True},
        {"task__eval_split": "test"},
        {"task__eval_examples": 12},
        {"task__ood": ["ptb"], "eval__ood": True, "ood": [{"name": "ptb", "kind": "text", "folder": "ptb"}]},
    ],
)
def test_evaluation_keys_change_the_cell_and_not_the_trained_model(changes: dict[str, Any]) -> None:
    assert cell_id(config(**changes)) != cell_id(config())
    assert training_id(config(**changes)) == training_id(config())


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1001},
        {"scale": "smoke"},
        {"train__recipe": 2},
        {"train__learning_rate": 1.0000001e-4},
        {"task__recipe": 2},
        {"task__max_length": 64},
        {"model__dimensions": {"hidden_size": 64}},
        {"method": [{"name": "vanilla"}]},
        {"method": [*BASE["method"], {"name": "gated_attention"}]},
    ],
)
def test_what_may_change_a_figure_changes_both_ids(changes: dict[str, Any]) -> None:
    assert cell_id(config(**changes)) != cell_id(config())
    assert training_id(config(**changes)) != training_id(config())


def test_a_method_that_quantizes_training_shares_its_network_between_bits_and_step_ratios_only() -> None:
    method = [{"name": "qat", "settings": {"bits": "w8a8"}}]
    base = config(method=method)
    for changes in ({"quant__weight_step_ratio": 1.1}, {"quant__bits": ["w4a8"]}):
        assert training_id(config(method=method, **changes)) == training_id(base)
    assert training_id(config(method=method, quant__roles=["query_weight"])) != training_id(base)


def test_the_right_step_is_no_part_of_an_id() -> None:
    assert cell_id(config(quant__weight_step_ratio=1.0)) == cell_id(config())


REFERENCE = sorted((Path(__file__).parents[2] / "results" / "reference").glob("*/records/*.json"))


@pytest.mark.parametrize("path", REFERENCE, ids=lambda path: path.stem)
def test_a_committed_record_keeps_its_id_when_the_schema_grows(path: Path) -> None:
    """Else nobody would find it again, and every experiment would run once more."""
    record = json.loads(path.read_text(encoding="utf-8"))
    config = config_of(record["config"])
    assert cell_id(config) == record["cell_id"]
    assert training_id(config) == record["provenance"]["training_id"]


@given(st.floats(allow_nan=False, width=64))
def test_one_number_has_one_id_and_two_have_two(value: float) -> None:
    def of(gamma: float | int) -> str:
        return cell_id(config(method=[{"name": "clipped_softmax", "settings": {"gamma": gamma}}]))

    assert of(value) == of(float(repr(value)))
    if value.is_integer():
        assert of(value) == of(int(value))
    assert (of(value) == of(0.5)) == (value == 0.5)


def test_settings_in_another_order_are_the_same_cell() -> None:
    swapped = config(method=[{"name": "clipped_softmax", "settings": {"zeta": 1, "gamma": -0.03}}])
    assert cell_id(swapped) == cell_id(config())
