"""Residual sums, and theorem 5.2 on whole networks (notes 1.2, 1.5; section 6, laws 6, 7, 8 and 11)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from qexp.kernels.unit_scaling import functional as U
from qexp.kernels.unit_scaling import modules as M
from qexp.kernels.unit_scaling import products, scale
from qexp.kernels.unit_scaling.constraints import to_output
from qexp.kernels.unit_scaling.residual import TauRule, depth_tau, fixed_tau, running_mean_tau
from qexp.kernels.unit_scaling.rules import PAPER, U_MUP, Rules

WIDTH, HEADS, LENGTH, TOKENS = 32, 4, 12, 50


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("tau", [0.1, 0.5, 0.9])
def test_everything_is_unit_scaled_even_inside_the_branch(tau: float) -> None:
    x = torch.randn(2**17, requires_grad=True)
    inside, skip = U.residual_split(x, tau)
    branch = (inside * torch.randn_like(x).sign()).requires_grad_()
    y = U.residual_add(branch, skip, tau)
    gradients = torch.autograd.grad(y, (x, inside, branch), torch.randn_like(y))
    assert [t.std().item() for t in (y, inside, branch, *gradients)] == pytest.approx([1.0] * 6, abs=0.02)


@pytest.mark.parametrize("tau", [0.1, 0.5, 0.9, 1.0])
def test_forward_and_backward_are_those_of_the_weighted_sum(tau: float) -> None:
    x = torch.randn(100, dtype=torch.float64, requires_grad=True)

    def weighted(t: Tensor) -> Tensor:
        return (1 - tau) ** 0.5 * t + tau**0.5 * torch.sin(t)

    y = M.Residual(_Sine(), tau)(x)
    assert torch.allclose(y, weighted(x), rtol=1e-14)
    incoming = torch.randn_like(y)
    (ours,), (theirs,) = (torch.autograd.grad(t, x, incoming) for t in (y, weighted(x)))
    assert torch.allclose(ours, theirs, rtol=1e-14)


class _Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x)


def test_the_branch_weight_is_delayed_to_the_end_of_backward() -> None:
    x = torch.ones(3, requires_grad=True)
    inside, skip = U.residual_split(x, 0.25)
    branch = inside * 1.0
    y = U.residual_add(branch, skip, 0.25)
    gradients = torch.autograd.grad(y, (branch, inside, skip, x), torch.ones(3), allow_unused=True)
    assert torch.equal(gradients[0], torch.ones(3)) and torch.equal(gradients[1], torch.ones(3))
    assert torch.allclose(y, torch.full((3,), 0.75**0.5 + 0.5))
    assert torch.allclose(gradients[3], torch.full((3,), 0.75**0.5 + 0.5))


def test_tau_of_one_drops_the_skip() -> None:
    branch, skip = torch.ones(2), torch.full((2,), torch.inf)
    assert U.residual_add(branch, skip, 1.0) is branch


@pytest.mark.parametrize("layers", [1, 2, 5, 16])
def test_running_mean_weighs_every_layer_alike(layers: int) -> None:
    """With orthogonal unit branches each has weight (1 / L)^1/2, so a share 1 / L, and the input none."""
    stream = torch.zeros(layers + 1, dtype=torch.float64)
    stream[-1] = 1.0
    for index in range(layers):
        stream = U.residual_add(torch.eye(layers + 1, dtype=torch.float64)[index], stream, running_mean_tau(index))
    expected = [layers**-0.5] * layers + [0.0]
    assert stream.tolist() == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("multiplier", [1.0, 0.5])
@pytest.mark.parametrize("ratio", [1.0, 2.0])
def test_depth_rule_shares_the_variance_as_asked(multiplier: float, ratio: float) -> None:
    """Attention layers share alike, so do feed-forward layers, with the asked ratios between them and to the input."""
    branches = 6
    rule = depth_tau(branches, multiplier, ratio)
    stream = torch.zeros(branches + 1, dtype=torch.float64)
    stream[-1] = 1.0
    for index in range(branches):
        stream = U.residual_add(torch.eye(branches + 1, dtype=torch.float64)[index], stream, rule(index))
    shares = stream.square()
    attention, feed_forward, embedding = shares[0:-1:2], shares[1:-1:2], shares[-1]
    assert attention.tolist() == pytest.approx([attention[0].item()] * 3)
    assert feed_forward.tolist() == pytest.approx([feed_forward[0].item()] * 3)
    assert (attention[0] / feed_forward[0]).item() == pytest.approx(ratio**2)
    assert ((attention.sum() + feed_forward.sum()) / 2 / embedding).item() == pytest.approx(multiplier**2)
    assert shares.sum().item() == pytest.approx(1.0)


def test_depth_rule_is_the_published_ratio() -> None:
    """tau of the later paper is t in t / (1 + t^2)^1/2; with all multipliers 1, t = (N / 2 + earlier branches)^-1/2."""
    for index in range(8):
        ratio = (8 / 2 + index) ** -0.5
        assert depth_tau(8)(index) ** 0.5 == pytest.approx(ratio / (1 + ratio**2) ** 0.5)


@pytest.mark.parametrize("tau", [0.0, -0.1, 1.5, float("nan")])
def test_impossible_tau_is_refused(tau: float) -> None:
    x = torch.zeros(1)
    for refused in (fixed_tau, lambda t: U.residual_split(x, t), lambda t: U.residual_add(x, x, t)):
        with pytest.raises(ValueError, match="tau must lie"):
            refused(tau)
    with pytest.raises(ValueError, match="between 0 and 1, got 1"):
        fixed_tau(1.0)
    with pytest.raises(ValueError, match="must be positive, got 0"):
        depth_tau(0)


class Attention(nn.Module):
    """Explicit products, or attention as one op."""

    def __init__(self, rules: Rules, fused: bool):
        super().__init__()
        self.qkv, self.out = M.Linear(WIDTH, 3 * WIDTH, rules=rules), M.Linear(WIDTH, WIDTH, rules=rules)
        self.norm, self.rules, self.fused = M.LayerNorm(WIDTH, rules=rules), rules, fused

    def forward(self, x: Tensor) -> Tensor:
        heads = self.qkv(self.norm(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        if self.fused:
            context = U.attention(*heads, is_causal=True, rules=self.rules)
        else:
            query, key, value = heads
            probabilities = U.softmax(U.matmul(query, key.mT, rules=self.rules), rules=self.rules)
            context = U.matmul(probabilities, value, rules=self.rules)
        return self.out(context.transpose(1, 2).flatten(2))


class FeedForward(nn.Sequential):
    def __init__(self, rules: Rules, activation: Callable[..., nn.Module], up: Rules | None = None):
        super().__init__(
            M.RMSNorm(WIDTH, rules=rules),
            M.Linear(WIDTH, 4 * WIDTH, rules=up or rules),
            activation(rules=rules),
            M.Linear(4 * WIDTH, WIDTH, rules=rules),
        )


class Convolution(nn.Module):
    def __init__(self, rules: Rules):
        super().__init__()
        self.conv, self.rules = M.Conv1d(WIDTH, WIDTH, 5, padding=2, groups=4, rules=rules), rules

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x.mT).mT
        return U.add(U.sigmoid(y, self.rules), U.tanh(y, self.rules), self.rules)


def network(rules: Rules, taus: TauRule, up: Rules | None = None) -> nn.Sequential:
    branches = [
        Attention(rules, fused=False),
        FeedForward(rules, M.GELU, up),
        Attention(rules, fused=True),
        FeedForward(rules, M.SiLU),
        Convolution(rules),
        FeedForward(rules, M.ReLU),
    ]
    trunk = [M.Residual(branch, taus(index)) for index, branch in enumerate(branches)]
    ends = [M.Embedding(TOKENS, WIDTH, rules=rules), M.LayerNorm(WIDTH, rules=rules)]
    return nn.Sequential(*ends, *trunk, M.LayerNorm(WIDTH), M.LinearReadout(WIDTH, TOKENS, rules=rules)).double()


@pytest.fixture
def true_gradients(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it to be rid of backward factors: from then on every factor is an ordinary multiplication by alpha."""

    def plain_linear(x: Tensor, weight: Tensor, bias: Tensor | None, alpha: float, *betas: float) -> Tensor:
        product = alpha * (x @ weight.t())
        return product if bias is None else product + bias

    def switch() -> None:
        monkeypatch.setattr(scale._Scaled, "apply", lambda x, alpha, beta: x * alpha)
        monkeypatch.setattr(products._ScaledLinear, "apply", plain_linear)

    return switch


def parallel(model: nn.Module, true_gradients: Callable[[], None]) -> tuple[float, float]:
    """Over all parameters, the smallest cosine and the smallest ratio of the model's gradients to the true ones."""
    tokens, target = torch.randint(TOKENS, (2, 8, LENGTH))
    parameters = list(model.parameters())
    loss = U.cross_entropy(model(tokens), target)
    ours = torch.autograd.grad(loss, parameters)
    true_gradients()
    true_loss = U.cross_entropy(model(tokens), target)
    theirs = torch.autograd.grad(true_loss, parameters)
    assert torch.allclose(loss, true_loss, rtol=1e-14)
    cosine = nn.functional.cosine_similarity
    cosines = [cosine(a.flatten(), b.flatten(), dim=0).item() for a, b in zip(ours, theirs, strict=True)]
    return min(cosines), min((a.norm() / b.norm()).item() for a, b in zip(ours, theirs, strict=True))


RULE_SETS = {
    "paper": PAPER,
    "paper_batch_exponent": replace(PAPER, weight_exponent=-1.0),
    "paper_to_output": replace(PAPER, constraint=to_output),
    "u_mup": U_MUP,
}
TAUS: dict[str, TauRule] = {"fixed": fixed_tau(0.3), "running_mean": running_mean_tau, "depth": depth_tau(6)}


@pytest.mark.parametrize("rules", RULE_SETS.values(), ids=RULE_SETS.keys())
@pytest.mark.parametrize("taus", TAUS.values(), ids=TAUS.keys())
def test_gradients_are_the_true_ones_times_a_positive_constant_each(
    rules: Rules, taus: TauRule, true_gradients: Callable[[], None]
) -> None:
    cosine, ratio = parallel(network(rules, taus), true_gradients)
    assert cosine == pytest.approx(1.0, abs=1e-12) and ratio > 0


@pytest.mark.parametrize("rules", [PAPER, U_MUP], ids=lambda r: r.name)
def test_gradients_are_not_parallel_when_one_op_in_a_branch_breaks_the_rule(
    rules: Rules, true_gradients: Callable[[], None]
) -> None:
    cosine, _ = parallel(network(rules, fixed_tau(0.3), up=rules.free), true_gradients)
    assert cosine < 1 - 1e-3


@pytest.mark.parametrize("rules", [PAPER, U_MUP], ids=lambda r: r.name)
def test_every_tensor_of_a_whole_network_is_near_unit_scale_at_initialisation(rules: Rules) -> None:
    """The band that the authors' guide calls no concern, [0.1, 10]: activations and their gradients, and weights'."""
    model = network(rules, fixed_tau(0.3)).float()
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            output.retain_grad()
            seen[name] = output

        return hook

    for name, module in model.named_modules():
        module.register_forward_hook(keep(name))
    tokens, target = torch.randint(TOKENS, (2, 32, LENGTH))
    U.cross_entropy(model(tokens), target).backward()
    scales = {name: t.std().item() for name, t in seen.items()}
    scales |= {name + ".gradient": t.grad.std().item() for name, t in (seen | dict(model.named_parameters())).items()}
    assert len(scales) > 60
    readout = {"", "10"} if rules is U_MUP else set()  # u-muP's last output is small on purpose
    assert not {n: s for n, s in scales.items() if not 0.1 <= s <= 10 and n not in readout}
