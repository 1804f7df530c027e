"""Decay groups, methods' rules and frozen parts, by name on a small network."""

import pytest
from torch import nn

from qexp.conf.errors import UserError
from qexp.conf.schema import TrainConfig
from qexp.methods.base import ParameterRule
from qexp.runner.optimizer import freeze, parameter_groups


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(8, 4)
        self.gate = nn.Linear(4, 1)
        self.dense = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)


def settings(network: Network, cfg: TrainConfig, *rules: ParameterRule) -> dict[str, tuple[float, float]]:
    names = {parameter: name for name, parameter in network.named_parameters()}
    groups = parameter_groups(network, cfg, rules)
    return {names[p]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


def test_matrices_decay_and_biases_and_norm_gains_do_not() -> None:
    found = settings(Network(), TrainConfig(name="t", learning_rate=0.1, weight_decay=0.5))
    assert {name for name, (_, decay) in found.items() if decay} == {"words.weight", "gate.weight", "dense.weight"}
    assert {rate for rate, _ in found.values()} == {0.1}


def test_norm_gains_decay_where_asked_but_never_biases() -> None:
    found = settings(Network(), TrainConfig(name="t", weight_decay=0.5, decay_layernorm=True))
    assert found["norm.weight"][1] == 0.5
    assert found["norm.bias"][1] == 0.0


def test_rules_scale_the_learning_rate_and_set_the_decay() -> None:
    rule = ParameterRule("gate", lr_factor=30.0, weight_decay=0.0)
    found = settings(Network(), TrainConfig(name="t", learning_rate=0.1, weight_decay=0.5), rule)
    assert found["gate.weight"] == (pytest.approx(3.0), 0.0)
    assert found["dense.weight"] == (0.1, 0.5)


def test_frozen_parts_are_in_no_group() -> None:
    network = Network()
    assert freeze(network, ["embeddings", "norm"]) == 3
    assert set(settings(network, TrainConfig(name="t"))) == {"gate.weight", "gate.bias", "dense.weight", "dense.bias"}


def test_freezing_what_is_not_there_is_an_error() -> None:
    with pytest.raises(UserError, match="embedings"):
        freeze(Network(), ["embedings"])
