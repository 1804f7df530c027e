"""From overrides with several values to cells: Hydra's syntax, the plan's file, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qexp.conf.errors import UserError
from qexp.runner.compose import compose, compose_dict
from qexp.runner.identity import cell_id, training_id
from qexp.runner.sweep.expand import axes, expand, read_file
from qexp.runner.sweep.plan import changes, plan_sweep, read_plan, write_plan

BASE = ("model=tiny_bert", "task=pydocs", "scale=smoke")


@pytest.mark.parametrize(
    ("override", "texts"),
    [
        ("seed=1,2", ["seed=1", "seed=2"]),
        ("seed=range(0,3)", ["seed=0", "seed=1", "seed=2"]),
        ("train.learning_rate=choice(1e-4,3e-4)", ["train.learning_rate=0.0001", "train.learning_rate=0.0003"]),
        ("method=vanilla,[qat,gated_attention]", ["method=vanilla", "method=[qat,gated_attention]"]),
        ("method=[qat,gated_attention]", ["method=[qat,gated_attention]"]),
        ("model='a,b'", ["model='a,b'"]),
        ("task.folder='a b','c=d'", ["task.folder='a b'", "task.folder='c=d'"]),
        ("quant.bits=[w8a8],[w8a8,w4a8]", ["quant.bits=[w8a8]", "quant.bits=[w8a8,w4a8]"]),
        ("~train.dropout", ["~train.dropout"]),
        ("train.dropout=null,0.1", ["train.dropout=null", "train.dropout=0.1"]),
        ("++seed=1,2", ["++seed=1", "++seed=2"]),
    ],
)
def test_hydras_syntax(override: str, texts: list[str]) -> None:
    assert axes([override]) == {override.lstrip("+~").partition("=")[0]: tuple(texts)}


def test_all_combinations_the_first_key_slowest_and_later_overrides_win() -> None:
    by_key = axes(["seed=1,2,3", "method=a,b", "seed=7,8"])
    assert expand(by_key) == [
        ("seed=7", "method=a"),
        ("seed=7", "method=b"),
        ("seed=8", "method=a"),
        ("seed=8", "method=b"),
    ]
    assert expand({}) == [()]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed=range(3,3)", "no value at all"),
        ("train.learning_rate=interval(0,1)", "a grid cannot have every number of an interval"),
        ("method=glob(*)", "not an override"),
        ("seed=range(0,1000000000)", "at most 10000"),
        ("seed=(", "not an override"),
    ],
)
def test_what_cannot_be_enumerated_is_refused(override: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        expand(axes([override]))


def test_a_sweep_is_planned_with_the_cells_that_single_runs_would_have() -> None:
    plan, settings = plan_sweep([*BASE, "method=vanilla,gated_attention", "seed=range(1,3)", "launcher.workers=2"])
    assert [cell.label for cell in plan.cells] == [
        f"method={method} seed={seed}" for method in ("vanilla", "gated_attention") for seed in (1, 2)
    ]
    single = compose([*BASE, "method=gated_attention", "seed=2"])
    assert plan.cells[3].cell_id == cell_id(single)
    assert plan.cells[3].config == compose_dict([*BASE, "method=gated_attention", "seed=2"])
    assert plan.cells[3].trainings == (training_id(single),)
    assert settings.launcher.workers == 2 and settings.sweep.max_crashes == 3


def test_the_same_cells_are_the_same_sweep_whatever_the_order_and_the_launcher() -> None:
    one, _ = plan_sweep([*BASE, "seed=1,2"])
    other, _ = plan_sweep([*BASE, "seed=2,1,2", "launcher.threads=1"])
    assert one.sweep_id == other.sweep_id
    assert len(other.cells) == 2
    assert plan_sweep([*BASE, "seed=1,3"])[0].sweep_id != one.sweep_id


def test_networks_that_are_trained_first_are_claimed_too() -> None:
    (plain,) = plan_sweep([*BASE])[0].cells
    (first,) = plan_sweep([*BASE, "model.pretrain.task=pydocs"])[0].cells
    assert len(plain.trainings) == 1 and len(first.trainings) == 2


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["method=vanilla,nonsense"], "cell method=nonsense: unknown method"),
        (["method=clipped_softmax,vanilla", "method.gamma=-0.1"], "cell method=vanilla: unknown key method.gamma"),
        (["launcher=nonsense"], "unknown launcher 'nonsense'; choices: local"),
        (["launcher.workers=0"], "launcher.workers=0: expected"),
        (["launcher.cores=2"], "unknown key launcher.cores"),
        (["sweep.crashes=2"], "unknown key sweep.crashes"),
        (["launcher.workers=1,2"], "several values"),
        (["sweep=3"], "write launcher=NAME"),
        (["results_dir=a,b"], "one folder"),
    ],
)
def test_bad_sweeps_are_refused_in_one_line(overrides: list[str], words: str) -> None:
    with pytest.raises(UserError) as error:
        plan_sweep([*BASE, *overrides])
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_plan_is_read_back_and_shows_what_would_be_composed_differently(tmp_path: Path) -> None:
    plan, _ = plan_sweep([*BASE, "seed=1,2"])
    write_plan(plan, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == plan
    assert changes(plan) == []
    data = json.loads((tmp_path / "plan.json").read_text())
    data["cells"][1]["config"]["task"]["recipe"] = 0
    data["cells"][1]["cell_id"] = "0" * 16
    (tmp_path / "other.json").write_text(json.dumps(data))
    assert changes(read_plan(tmp_path / "other.json")) == ["task.recipe: 0 -> 1"]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"version": 1}', '{"version": 9}', '{"version": 1, "cells": [3]}'])
def test_what_is_no_plan_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"plan\.json is"):
        read_plan(path)


def test_a_sweep_file_says_the_same_as_a_command_line(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text("method: vanilla,ptq\nseed: range(0,2)\nquant.bits: [w8a8, w4a8]\ntrain.max_steps: 3\n")
    assert read_file(path) == ["method=vanilla,ptq", "seed=range(0,2)", "quant.bits=[w8a8,w4a8]", "train.max_steps=3"]
    for content in ("- seed", "seed", "a: [", "3: 4", "\x00"):
        path.write_text(content)
        with pytest.raises(UserError, match=r"sweep\.yaml"):
            read_file(path)
    with pytest.raises(UserError, match="cannot read"):
        read_file(tmp_path / "missing.yaml")
