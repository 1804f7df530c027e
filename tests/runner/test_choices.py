"""Reading ``conf/``: the same as Hydra's composition, whose grammar and rules are ours, only read once."""

from __future__ import annotations

from typing import Any

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_module
from omegaconf import OmegaConf

from qexp.conf.catalog import GROUPS
from qexp.conf.catalog import choices as names
from qexp.runner import choices

FREE = [group for group in GROUPS if group != "scale"]


def by_hydra(*overrides: str) -> dict[str, Any]:
    with initialize_config_module("qexp.conf", version_base="1.3"):
        tree: Any = OmegaConf.to_container(hydra_compose("config", overrides=list(overrides)))
    return dict(tree)


@pytest.mark.parametrize("turn", range(max(len(names(group)) for group in FREE)))
def test_every_choice_is_what_hydra_makes_of_it(turn: int) -> None:
    """Each turn takes the next choice of every group, so that all of them have had theirs at the end."""
    chosen = {group: names(group)[turn % len(names(group))] for group in FREE}
    expected = by_hydra(*(f"{group}={name}" for group, name in chosen.items()))
    assert {group: choices.choice(group, name) for group, name in chosen.items()} == {
        group: expected[group] for group in chosen
    }


def test_the_top_and_its_choices_are_hydras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QEXP_DATA_DIR", raising=False)
    default = choices.default_choices()
    assert set(default) == set(GROUPS)
    tree = choices.merged(choices.top(), choices.choice("scale", default.pop("scale")))
    tree |= {group: choices.choice(group, name) for group, name in default.items()}
    assert tree == {**by_hydra(), "data_dir": None}


def test_merging_goes_into_dictionaries_and_replaces_the_rest() -> None:
    under = {"a": {"b": 1, "c": [1, 2]}, "d": None, "e": 1}
    assert choices.merged(under, {"a": {"c": [3]}, "d": {"f": 1}, "e": None}) == {
        "a": {"b": 1, "c": [3]},
        "d": {"f": 1},
        "e": None,
    }


def test_a_choice_is_the_callers_own() -> None:
    choices.choice("model", "tiny_bert")["dimensions"].clear()
    assert choices.choice("model", "tiny_bert")["dimensions"]
