"""``qexp config``: the whole configuration, or a difference."""

from __future__ import annotations

import json
from typing import Any

import yaml

from qexp.runner.compose import compose_dict


def test_prints_the_composed_configuration_as_yaml(qexp: Any) -> None:
    outcome = qexp("config", "scale=smoke", "seed=9")
    assert yaml.safe_load(outcome.out) == compose_dict(["scale=smoke", "seed=9"])


def test_prints_json(qexp: Any) -> None:
    assert json.loads(qexp("config", "--json").out) == compose_dict([])


def test_difference_shows_only_what_changes(qexp: Any) -> None:
    outcome = qexp("config", "--diff", "scale=paper seed=3")
    keys = [line.split()[0] for line in outcome.out.splitlines()[1:]]
    assert "seed" in keys and "train.max_steps" in keys
    assert "device" not in keys


def test_difference_with_another_method_drops_the_settings_of_the_first(qexp: Any) -> None:
    args = ["config", "method=clipped_softmax", "method.gamma=-0.03", "--diff", "method=vanilla", "--json"]
    assert json.loads(qexp(*args).out)["method.clipped_softmax.gamma"] == [-0.03, None]


def test_no_difference(qexp: Any) -> None:
    assert qexp("config", "--diff", "seed=1000").out == "no difference\n"
