"""The first tensor that is not finite, wherever it arises."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from qexp.kernels.unit_scaling.scale import scaled
from qexp.models.not_finite import first_not_finite


class Explodes(nn.Module):
    """Identity that multiplies forward or backward by what is not finite."""

    def __init__(self, forward: float = 1.0, backward: float = 1.0):
        super().__init__()
        self.factors = forward, backward

    def forward(self, x: Tensor) -> Tensor:
        return scaled(x, *self.factors)


def run(network: nn.Module) -> Callable[[], object]:
    return lambda: network(torch.ones(2, 3)).sum().backward()


@pytest.mark.parametrize(
    ("middle", "expected"),
    [
        (Explodes(), None),
        (Explodes(forward=torch.inf), "the output of 1"),
        (Explodes(backward=torch.nan), "the gradient of the output of 0"),
    ],
)
def test_outputs_and_their_gradients_in_the_order_of_the_passes(middle: nn.Module, expected: str | None) -> None:
    network = nn.Sequential(nn.Linear(3, 3), middle, nn.Linear(3, 3))
    assert first_not_finite(network, run(network)) == expected


def test_a_weight_comes_before_all_that_is_made_of_it() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    with torch.no_grad():
        network[1].bias[0] = torch.nan
    assert first_not_finite(network, run(network)) == "the weight 1.bias"


def test_a_parameter_s_gradient_where_nothing_else_was_found() -> None:
    network = nn.Sequential(nn.Linear(3, 3))
    network[0].weight.register_hook(lambda gradient: gradient * torch.inf)
    assert first_not_finite(network, run(network)) == "the gradient of the parameter 0.weight"


def test_no_hook_stays() -> None:
    network = nn.Sequential(nn.Linear(3, 3))
    first_not_finite(network, run(network))
    assert not network[0]._forward_hooks
