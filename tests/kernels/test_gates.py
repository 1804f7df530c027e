"""Laws of the gates (paper notes 1.3; section 6, laws 8-12)."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from qexp.kernels.gates import AllHeadsLinearGate, Gate, LinearGate, MLPGate

HEADS, HEAD_DIM, WIDTH = 4, 8, 32
MAKERS: dict[str, Callable[..., Gate]] = {
    "linear": lambda **kw: LinearGate(HEADS, HEAD_DIM, **kw),
    "mlp": lambda **kw: MLPGate(HEADS, HEAD_DIM, 5, **kw),
    "all_heads": lambda **kw: AllHeadsLinearGate(HEADS, WIDTH, **kw),
}
every_gate = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 5, WIDTH)


@every_gate
def test_shape_and_range(make: Callable[..., Gate], x: Tensor) -> None:
    values = make()(x)
    assert values.shape == (2, HEADS, 5, 1)
    assert 0 < values.min() and values.max() < 1


@pytest.mark.parametrize(
    "gate, count",
    [
        (LinearGate(12, 64), 780),
        (MLPGate(12, 64, 16), 12_684),
        (MLPGate(12, 64, 4), 3_180),
        (AllHeadsLinearGate(12, 768), 9_228),
    ],
    ids=lambda v: str(v) if isinstance(v, int) else type(v).__name__,
)
def test_parameter_counts_are_the_papers(gate: Gate, count: int) -> None:
    assert sum(p.numel() for p in gate.parameters()) == count


def test_each_gate_is_its_formula(x: Tensor) -> None:
    slices = x.unflatten(-1, (HEADS, HEAD_DIM))
    linear, mlp, whole = MAKERS["linear"](), MAKERS["mlp"](), MAKERS["all_heads"]()
    assert isinstance(mlp, MLPGate)
    for head in range(HEADS):
        own = slices[:, :, head]
        expected = torch.sigmoid(own @ linear.output_weight[head] + linear.output_bias[head])
        assert torch.allclose(linear(x)[:, head, :, 0], expected, atol=1e-6)
        hidden = torch.relu(own @ mlp.hidden_weight[head] + mlp.hidden_bias[head])
        expected = torch.sigmoid(hidden @ mlp.output_weight[head] + mlp.output_bias[head])
        assert torch.allclose(mlp(x)[:, head, :, 0], expected, atol=1e-6)
        expected = torch.sigmoid(x @ whole.output_weight[head] + whole.output_bias[head])
        assert torch.allclose(whole(x)[:, head, :, 0], expected, atol=1e-6)


@every_gate
def test_a_heads_gate_sees_its_slice_only_unless_all_heads(make: Callable[..., Gate], x: Tensor) -> None:
    gate = make()
    other = x.clone()
    other[..., HEAD_DIM : 2 * HEAD_DIM] += 3.0
    changed = (gate(x) != gate(other)).flatten(2).any(-1).any(0)
    sees_all = isinstance(gate, AllHeadsLinearGate)
    assert changed.tolist() == ([True] * HEADS if sees_all else [False, True, False, False])


@every_gate
def test_a_tokens_gate_depends_on_that_token_only(make: Callable[..., Gate], x: Tensor) -> None:
    gate = make()
    other = x.clone()
    other[:, 3] += 3.0
    difference = (gate(x) - gate(other)).abs().amax((0, 1, 3))
    assert difference[3] > 1e-3 and (difference[[0, 1, 2, 4]] == 0).all()


@pytest.mark.parametrize("pi", [0.1, 0.25, 0.5, 0.9])
@every_gate
def test_bias_is_logit_of_pi_init(make: Callable[..., Gate], pi: float) -> None:
    gate = make(pi_init=pi)
    assert torch.allclose(torch.sigmoid(gate.output_bias), torch.tensor(pi))


def test_only_the_linear_gate_sets_its_bias_by_default(x: Tensor) -> None:
    assert (MAKERS["linear"]().output_bias == 0).all()
    for name, fan_in in (("mlp", 5), ("all_heads", WIDTH)):
        bias = MAKERS[name]().output_bias
        assert (bias != 0).all() and bias.abs().max() <= 1 / math.sqrt(fan_in)


def test_weights_start_like_nn_linear() -> None:
    gate = MLPGate(64, 64, 16)
    for weight, fan_in in ((gate.hidden_weight, 64), (gate.output_weight, 16)):
        bound = 1 / math.sqrt(fan_in)
        assert weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    # [C] of the notes: unit-variance inputs give the linear gate's logits a standard deviation of 0.58.
    logits = LinearGate(12, 64).logits(torch.randn(4, 200, 768))
    assert logits.std().item() == pytest.approx(0.58, abs=0.05)


@every_gate
def test_closed_open_and_constant_gates(make: Callable[..., Gate], x: Tensor) -> None:
    gate = make()
    torch.nn.init.zeros_(gate.output_weight)
    for bias, expected in ((40.0, 1.0), (-200.0, 0.0), (0.3, torch.sigmoid(torch.tensor(0.3)).item())):
        torch.nn.init.constant_(gate.output_bias, bias)
        assert (gate(x) == expected).all()


@every_gate
def test_finetuning_form_with_std_0_is_exactly_one_and_can_learn(make: Callable[..., Gate], x: Tensor) -> None:
    gate = make(pi_init=0.5)
    gate.init_for_finetuning(std=0.0)
    assert gate.multiplier == 2.0
    values = gate(x)
    assert (values == 1.0).all()
    (values * torch.randn_like(values)).sum().backward()
    assert gate.output_weight.grad is not None and (gate.output_weight.grad != 0).any()


@every_gate
def test_finetuning_form(make: Callable[..., Gate], x: Tensor) -> None:
    gate = make(pi_init=0.25)
    gate.init_for_finetuning(std=0.01)
    assert gate.multiplier == 4.0
    assert 0 < gate.output_weight.std() < 0.03
    assert torch.allclose(gate(x), torch.ones(1), atol=0.2)
    rebuilt = make(pi_init=0.25, multiplier=4.0)
    rebuilt.load_state_dict(gate.state_dict())
    assert torch.equal(rebuilt(x), gate(x))


@pytest.mark.parametrize("pi", [0.0, 1.0, -1.0, 2.0])
@every_gate
def test_pi_init_outside_0_to_1_is_refused(make: Callable[..., Gate], pi: float) -> None:
    with pytest.raises(ValueError, match="pi_init"):
        make(pi_init=pi)
