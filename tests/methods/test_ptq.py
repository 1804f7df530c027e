"""Post-training quantization with its own range estimators."""

from __future__ import annotations

import pytest
import torch

from qexp.conf.errors import UserError
from qexp.conf.schema import QuantConfig, QuantizerConfig
from qexp.methods.registry import acts_in_training, create, validate
from qexp.models.adapt import adapt
from qexp.models.quantization import quantize_model


def spec(weights="minmax", activations="running_minmax"):
    chosen = QuantizerConfig(symmetric=True, range=weights), QuantizerConfig(symmetric=False, range=activations)
    return QuantConfig("test", weights=chosen[0], activations=chosen[1], roles=("query_weight", "ffn_hidden"))


def converted(settings, given, network, tokens, output_of):
    batches = iter([tokens(), tokens(seed=1)])
    return output_of(create("ptq", settings).convert(adapt(network("bert")), given, "w4a4", batches), tokens())


def test_by_default_it_is_plain_post_training_quantization_bit_for_bit(network, tokens, output_of):
    plain = quantize_model(adapt(network("bert")), spec(), "w4a4", [tokens(), tokens(seed=1)])
    found = converted({}, spec(), network, tokens, output_of)
    assert torch.equal(found, output_of(plain, tokens()))


@pytest.mark.parametrize("activations", ["minmax", "running_minmax", "percentile", "mse"])
@pytest.mark.parametrize("weights", ["minmax", "mse"])
def test_its_estimators_stand_in_for_those_of_the_configuration(weights, activations, network, tokens, output_of):
    settings = {"weights": weights, "activations": activations}
    asked = converted(settings, spec("percentile", "minmax"), network, tokens, output_of)
    plain = quantize_model(adapt(network("bert")), spec(weights, activations), "w4a4", [tokens(), tokens(seed=1)])
    assert torch.equal(asked, output_of(plain, tokens()))


def test_it_acts_only_in_evaluation_and_refuses_other_estimators():
    assert not acts_in_training(validate("ptq", {}))
    with pytest.raises(UserError, match="method.weights.*'minmax' or 'mse'"):
        validate("ptq", {"weights": "percentile"})
    with pytest.raises(UserError, match="method.activations.*'mse'"):
        validate("ptq", {"activations": "median"})
