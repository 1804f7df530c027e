"""FP8 in a network: what is cast, against the formulas written out; what is executed, against what is simulated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from qexp.conf.errors import RunError, UserError
from qexp.kernels.formats import E4M3FNUZ, E5M2FNUZ, cast
from qexp.kernels.fp8 import FP8
from qexp.kernels.unit_scaling.modules import Conv1d as UnitConv1d
from qexp.kernels.unit_scaling.modules import Linear as UnitLinear
from qexp.kernels.unit_scaling.modules import LinearReadout as UnitReadout
from qexp.kernels.unit_scaling.rules import PAPER
from qexp.models.adapt import adapt
from qexp.models.certificate import Recorder
from qexp.models.fp8 import Fp8
from qexp.models.fp8_execution import BackwardProduct, ForwardProduct
from qexp.models.precision import Tally
from qexp.models.unit_scaled.layers import Conv1D as UnitTransposed

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "Linear": lambda: nn.Linear(32, 48),
    "Linear without bias": lambda: nn.Linear(32, 48, bias=False),
    "Conv1D": lambda: Conv1D(48, 32),
    "unit-scaled Linear": lambda: UnitLinear(32, 48),
    "unit-scaled readout": lambda: UnitReadout(32, 48),
    "unit-scaled Conv1D": lambda: UnitTransposed(48, 32, PAPER),
}
CONVOLUTIONS: dict[str, Callable[[], nn.Module]] = {
    "Conv1d": lambda: nn.Conv1d(8, 12, 3, groups=2),
    "unit-scaled Conv1d": lambda: UnitConv1d(8, 12, 3, groups=2),
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make(build: Callable[[], nn.Module]) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(build())


def passes(network: nn.Module, x: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """Output and all gradients."""
    network.zero_grad()
    leaf = x.clone().requires_grad_()
    y = network(leaf)
    y.backward(gradient)
    assert leaf.grad is not None
    return {"y": y.detach(), "x": leaf.grad, **{n: p.grad.clone() for n, p in network.named_parameters()}}  # type: ignore[union-attr]


def cast_by_hand(layer: nn.Module, x: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """The same of a layer whose operands were cast before and whose gradient is."""
    with torch.no_grad():
        layer[0].weight.copy_(cast(layer[0].weight, E4M3FNUZ))  # type: ignore[index, operator, union-attr]
    return passes(layer, cast(x, E4M3FNUZ), cast(gradient, E5M2FNUZ))


@pytest.mark.parametrize("kind", [*LAYERS, *CONVOLUTIONS])
def test_operands_are_e4_the_arriving_gradient_is_e5_and_sums_are_float32(kind: str) -> None:
    network = make({**LAYERS, **CONVOLUTIONS}[kind])
    x = normal(3, 8, 20) if kind in CONVOLUTIONS else normal(3, 7, 32)
    gradient = normal(*network(x).shape, seed=1) * 1e-4
    with Fp8(FP8["paper"], "nearest").installed(network):
        found = passes(network, x, gradient)
    expected = cast_by_hand(network, x, gradient)
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("kind", LAYERS)
def test_executed_is_simulated_but_for_the_order_of_sums(kind: str) -> None:
    network = make(LAYERS[kind])
    x, gradient = normal(3, 7, 32), normal(3, 7, 48, seed=1)
    results = []
    for executed in (False, True):
        precision, recorder = Fp8(FP8["hardware"], "nearest", executed), Recorder()
        with precision.installed(network):
            assert precision.executes is executed
            with recorder:
                results.append(passes(network, x, gradient))
            (product,) = precision.certificate(recorder)["products"]
        assert product["executed"] is executed
    assert product["forward"] == 1 and product["backward"] == 2
    for name, simulated in results[0].items():
        torch.testing.assert_close(results[1][name], simulated, rtol=1e-5, atol=1e-4)


def test_what_has_no_whole_tiles_is_simulated_and_says_so() -> None:
    network = make(lambda: nn.Linear(32, 20))
    precision = Fp8(FP8["hardware"], "nearest", executed=True)
    with precision.installed(network):
        network(normal(4, 32)).sum().backward()
        (product,) = precision.certificate(Recorder())["products"]
    assert not product["executed"] and product["why"] == "its shape (20, 32) is no multiple of 16"


@pytest.mark.parametrize("part", [ForwardProduct, BackwardProduct])
def test_a_claim_that_does_not_hold_is_an_error(part: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_floats(self: Any, first: Tensor, *rest: Any) -> Any:
        torch.mm(first, first.t())
        return before(self, first, *rest)

    before = part.forward
    monkeypatch.setattr(part, "forward", in_floats)
    network, precision, recorder = make(LAYERS["Linear"]), Fp8(FP8["hardware"], "nearest", executed=True), Recorder()
    with precision.installed(network):
        with recorder:
            passes(network, normal(16, 32), normal(16, 48))
        with pytest.raises(
            RunError, match="0 is claimed to multiply 8-bit floats, but aten::mm multiplied others in it"
        ):
            precision.certificate(recorder)


def test_query_key_and_value_are_cast_and_the_gradient_of_their_product(network: Any, tokens: Any) -> None:
    model = adapt(network("gpt2"))
    attention = model.module.get_submodule(model.attention[0].module)
    operands = [normal(2, 2, 5, 8, seed=seed).requires_grad_() for seed in range(3)]
    by_hand = [cast(t.detach(), E4M3FNUZ).requires_grad_() for t in operands]
    from qexp.models.attention import qexp_attention

    gradient = normal(2, 5, 2, 8, seed=4)
    with Fp8(FP8["paper"], "nearest").installed(model.module):
        context, _ = qexp_attention(attention, *operands, None)
        context.backward(gradient)
    expected, _ = qexp_attention(attention, *by_hand, None)
    expected.backward(cast(gradient, E5M2FNUZ))
    assert torch.equal(context, expected)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(operands, by_hand, strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("executed", [False, True])
def test_a_network_is_itself_again_afterwards(family: str, network: Any, tokens: Any, executed: bool) -> None:
    model = adapt(network(family, "language")).module
    inputs = tokens(padding="right")
    before, keys = model(**inputs).logits, list(model.state_dict())
    precision = Fp8(FP8["hardware"], "nearest", executed)
    with precision.installed(model):
        assert list(model.state_dict()) == keys
        inside = model(**inputs).logits
    assert not torch.equal(inside, before) and torch.equal(model(**inputs).logits, before)
    assert not [name for name, _ in model.named_modules() if "fp8" in name]


def test_every_linear_layer_and_attention_of_a_family_is_in_the_certificate(
    family: str, network: Any, tokens: Any
) -> None:
    model = adapt(network(family, "language"))
    precision = Fp8(FP8["paper"], "nearest")
    with precision.installed(model.module):
        model.module(**tokens()).logits.sum().backward()
        entries = {entry["name"]: entry for entry in precision.certificate(Recorder())["products"]}
    assert {info.module for info in model.linears} | {info.module for info in model.attention} <= entries.keys()
    assert all(entry["casts"]["operands"] in (2, 3) and entry["casts"]["gradients"] == 1 for entry in entries.values())


def test_a_network_that_multiplies_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="train.precision=fp8 found no linear layer"):
        with Fp8(FP8["paper"], "nearest").installed(nn.Sequential(nn.LayerNorm(4), nn.ReLU())):
            pass


def test_stochastic_rounding_is_unbiased_and_follows_the_seed() -> None:
    network, x = make(lambda: nn.Linear(32, 4, bias=False)), normal(1, 32)
    with Fp8(FP8["paper"], "stochastic").installed(network):
        torch.manual_seed(3)
        first = network(x)
        torch.manual_seed(3)
        assert torch.equal(network(x), first)
        many = torch.stack([network(x) for _ in range(2000)])
    exact = F.linear(x, network[0].weight)  # type: ignore[arg-type]
    # Both operands are unbiased and independent, so their product is: within 4 standard errors of the mean.
    assert ((many.mean(0) - exact).abs() <= 4 * many.std(0) / 2000**0.5).all()


def test_a_tally_counts_what_the_format_loses() -> None:
    tally = Tally()
    tally.add("closed.gradient", torch.ones(3), E5M2FNUZ)
    tally.restart(open=True)
    tiny = E5M2FNUZ.smallest_subnormal
    tally.add("a.gradient", torch.tensor([0.0, tiny, tiny / 4, 1e9]), E5M2FNUZ)
    tally.add("b.gradient", torch.tensor([tiny / 4, tiny / 4]), E5M2FNUZ)
    tally.add("a.input", torch.tensor([1e-9]), E4M3FNUZ)
    assert tally.shares() == {
        "a.gradient": {"underflow": pytest.approx(1 / 3), "overflow": pytest.approx(1 / 4)},
        "b.gradient": {"underflow": 1.0, "overflow": 0.0},
        "a.input": {"underflow": 1.0, "overflow": 0.0},
    }
    assert tally.gradient_underflow() == pytest.approx(3 / 5)
    tally.restart(open=False)
    assert tally.shares(), "the last tally stays until the next one begins"
