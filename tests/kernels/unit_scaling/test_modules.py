"""Modules are their functions on every argument, begin as the method asks, and hide no setting."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qexp.kernels.unit_scaling import functional as U
from qexp.kernels.unit_scaling import modules as M
from qexp.kernels.unit_scaling.constraints import to_output
from qexp.kernels.unit_scaling.rules import PAPER, U_MUP

X = torch.randn(4, 6, 16, generator=torch.Generator().manual_seed(0))
IDS = torch.tensor([[0, 1, 5], [2, 2, 9]])
CLASSES = torch.tensor([[0, 1, 2, 3, 4, 5]] * 4)
RULES = replace(
    PAPER, weight_exponent=-1.0, constraint=to_output, gelu=(2.0, 3.0), silu=(2.0, 3.0), softmax_exponent=0.5
)
PARAMETERS = {"weight", "bias"}

Case = tuple[Callable[..., nn.Module], Callable[..., Tensor], dict[str, Any], dict[str, Any], tuple[Tensor, ...]]
CASES: dict[str, Case] = {
    # module, function, what only the module takes, settings other than the defaults, inputs
    "linear": (M.Linear, U.linear, {"in_features": 16, "out_features": 8}, {"rules": RULES, "uses": 3}, (X,)),
    "readout": (
        M.LinearReadout,
        U.linear_readout,
        {"in_features": 16, "out_features": 8},
        {"rules": U_MUP, "uses": 3},
        (X,),
    ),
    "conv1d": (
        M.Conv1d,
        U.conv1d,
        {"in_channels": 6, "out_channels": 4, "kernel_size": 3},
        {"stride": 2, "padding": 3, "dilation": 2, "groups": 2, "rules": RULES},
        (X,),
    ),
    "embedding": (
        M.Embedding,
        U.embedding,
        {"num_embeddings": 10, "embedding_dim": 4},
        {"padding_idx": 2, "rules": RULES},
        (IDS,),
    ),
    "layer_norm": (M.LayerNorm, U.layer_norm, {}, {"normalized_shape": [6, 16], "eps": 0.1, "rules": RULES}, (X,)),
    "rms_norm": (M.RMSNorm, U.rms_norm, {}, {"normalized_shape": [16], "eps": 0.1, "rules": RULES}, (X,)),
    "gelu": (M.GELU, U.gelu, {}, {"approximate": "tanh", "rules": RULES}, (X,)),
    "relu": (M.ReLU, U.relu, {}, {"rules": RULES}, (X,)),
    "silu": (M.SiLU, U.silu, {}, {"rules": RULES}, (X,)),
    "tanh": (M.Tanh, U.tanh, {}, {"rules": RULES}, (X,)),
    "sigmoid": (M.Sigmoid, U.sigmoid, {}, {"rules": RULES}, (X,)),
    "softmax": (M.Softmax, U.softmax, {}, {"dim": 1, "rules": RULES}, (X,)),
    "dropout": (M.Dropout, U.dropout, {}, {"p": 0.25}, (X,)),
    "cross_entropy": (M.CrossEntropyLoss, U.cross_entropy, {}, {"ignore_index": 3, "reduction": "sum"}, (X, CLASSES)),
    "mse_loss": (M.MSELoss, U.mse_loss, {}, {"reduction": "sum"}, (X, X.flip(0))),
}
every_case = pytest.mark.parametrize("name", CASES)


def run(
    module: nn.Module, inputs: tuple[Tensor, ...], function: Callable[..., Tensor] | None, **settings: Any
) -> list[Tensor]:
    """Output and gradients of the first input (where it is a float) and of the parameters."""
    torch.manual_seed(1)
    first = inputs[0].clone().requires_grad_(inputs[0].is_floating_point())
    parameters = dict(module.named_parameters())
    y = module(first, *inputs[1:]) if function is None else function(first, *inputs[1:], **parameters, **settings)
    leaves = [*([first] if first.requires_grad else []), *parameters.values()]
    incoming = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
    return [y, *torch.autograd.grad(y, leaves, incoming)]


@every_case
def test_module_and_function_agree_with_every_setting(name: str) -> None:
    make, function, sizes, settings, inputs = CASES[name]
    module = make(**sizes, **settings)
    for ours, theirs in zip(run(module, inputs, None), run(module, inputs, function, **settings), strict=True):
        assert torch.equal(ours, theirs)


@every_case
def test_no_setting_of_the_function_is_missing_or_idle_in_the_module(name: str) -> None:
    """The test above would not notice a setting that it leaves at its default, or that changes nothing."""
    make, function, sizes, settings, inputs = CASES[name]
    offered = inspect.signature(make).parameters
    taken = set(inspect.signature(function).parameters) - {"input", "target", "training"} - PARAMETERS
    assert taken == set(settings) == set(offered) - set(sizes) - {"bias", "elementwise_affine"}

    def outcome(**chosen: Any) -> list[Tensor]:
        torch.manual_seed(0)
        return run(make(**sizes, **chosen), inputs, None)

    changed = outcome(**settings)
    for setting in set(settings) - {"normalized_shape"}:
        default = outcome(**settings | {setting: offered[setting].default})
        assert not all(torch.equal(a, b) for a, b in zip(default, changed, strict=True)), setting


@every_case
def test_defaults_of_module_and_function_are_the_same(name: str) -> None:
    make, function, _, _, _ = CASES[name]
    offered, taken = inspect.signature(make).parameters, inspect.signature(function).parameters
    shared = set(offered) & set(taken) - {"bias", "normalized_shape"}
    assert {k: offered[k].default for k in shared} == {k: taken[k].default for k in shared}


@every_case
def test_weights_begin_as_unit_normals_and_biases_as_zeros(name: str) -> None:
    make, _, sizes, settings, _ = CASES[name]
    torch.manual_seed(0)
    for key, parameter in make(**{k: v * 12 for k, v in sizes.items()}, **settings).named_parameters():
        if "norm" in name or key == "bias":
            assert (parameter == (0.0 if key == "bias" else 1.0)).all()
        else:
            assert parameter.std().item() == pytest.approx(1.0, abs=0.05)


def test_parts_that_may_be_left_out() -> None:
    assert M.Linear(4, 4, bias=False).bias is None and M.Conv1d(4, 4, 3, bias=False).bias is None
    assert M.LayerNorm(4, bias=False).bias is None and not list(M.LayerNorm(4, elementwise_affine=False).parameters())
    assert M.RMSNorm(4).weight is not None and M.RMSNorm(4, rules=U_MUP).weight is None
    assert M.Conv1d(4, 4, 3, bias=False)(torch.randn(2, 4, 8)).shape == (2, 4, 6)


def test_dropout_follows_the_mode() -> None:
    module = M.Dropout(0.36).eval()
    assert torch.equal(module(X), X * 0.8)
    assert (module.train()(X) == 0).any()


def test_residual_module_is_split_branch_and_add() -> None:
    module = M.Residual(M.Linear(16, 16), 0.3)
    inside, skip = U.residual_split(X, 0.3)
    assert torch.equal(module(X), U.residual_add(module.branch(inside), skip, 0.3))


def test_every_op_with_settings_has_a_module_or_needs_none() -> None:
    """Ops of several activations, and the two halves of a residual sum, stay functions."""
    functions_only = {
        "add",
        "attention",
        "bias_add",
        "matmul",
        "multiply_gain",
        "residual_add",
        "residual_split",
        "sum",
    }
    assert {function.__name__ for _, function, *_ in CASES.values()} == set(U.__all__) - functions_only
