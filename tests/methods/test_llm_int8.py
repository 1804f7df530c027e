"""LLM.int8() as bitsandbytes has it: which layers, how near to the floats, and what it really multiplies."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from qexp.conf.errors import UserError
from qexp.methods.llm_int8.layers import InHalf, convert, multiplies_integers
from qexp.methods.registry import create, validate
from qexp.models.adapt import adapt
from qexp.models.certificate import Recorder

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
CPU = torch.device("cpu")


def test_it_stays_near_the_floats_and_leaves_the_network_as_it_is(family, head, network, tokens, output_of):
    model = adapt(network(family, head))
    expected = output_of(model.module, tokens())
    execution = create("llm_int8", {}).execute(model, "auto")
    assert torch.equal(output_of(model.module, tokens()), expected)
    found = output_of(execution.module, tokens())
    assert 0 < (found - expected).abs().mean() < 0.05 * expected.abs().mean()


def test_linear_layers_below_the_head_are_replaced(family, network):
    model = adapt(network(family, "classifier"))
    execution = create("llm_int8", {}).execute(model, "auto")
    left = [n for n, m in execution.module.named_modules() if type(m) in (nn.Linear, Conv1D)]
    assert left and all(not name.startswith(model.module.base_model_prefix) for name in left)
    replaced = [n for n, m in execution.module.named_modules() if isinstance(m, InHalf)]
    assert len(replaced) >= len(model.linears)


def test_outlier_columns_are_not_rounded_to_eight_bits():
    torch.manual_seed(0)
    layer = nn.Linear(32, 8)
    x = torch.randn(16, 32)
    x[:, 5] *= 1000
    exact = layer(x)
    errors = {}
    for threshold in (6.0, 1e6):
        network = nn.Sequential(nn.Linear(32, 8))
        network[0].load_state_dict(layer.state_dict())
        convert(network, threshold, ())
        with torch.no_grad():
            errors[threshold] = float((network(x) - exact).abs().mean() / exact.abs().mean())
    assert errors[6.0] < errors[1e6]


def test_figures_are_simulated_exactly_where_values_are_multiplied_as_floats(network, tokens, output_of):
    execution = create("llm_int8", {}).execute(adapt(network("bert")), "auto")
    recorder = Recorder()
    with recorder:
        output_of(execution.module, tokens())
    proof = execution.certify(recorder)
    listed = proof["products"] if multiplies_integers(CPU) else proof["in_float"]
    assert len(listed) == 12 and all(product["calls"] == 1 for product in listed)
    assert bool(proof["products"]) == multiplies_integers(CPU)


def test_bad_input(network):
    with pytest.raises(UserError, match="threshold.*greater than 0"):
        validate("llm_int8", {"threshold": 0.0})
    with pytest.raises(UserError, match="found no linear layer"):
        create("llm_int8", {"exclude": ("encoder", "pooler", "layer")}).execute(adapt(network("bert")), "auto")
