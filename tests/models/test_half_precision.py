"""FP16 and BF16 in a network: what is a number of the format, what stays in float32, and what becomes of updates."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qexp.kernels.formats import BF16, FP16, Format, cast
from qexp.kernels.unit_scaling.losses import cross_entropy
from qexp.kernels.unit_scaling.scale import scaled
from qexp.models.adapt import adapt
from qexp.models.capture import capture
from qexp.models.certificate import Recorder
from qexp.models.half_precision import HalfPrecision

every_half = pytest.mark.parametrize("format", [FP16, BF16], ids=lambda format: format.name)


def is_of(x: Tensor, format: Format) -> bool:
    return torch.equal(cast(x, format), x)


def step(model: nn.Module, inputs: dict[str, Tensor], scale: float = 1.0) -> dict[str, Tensor]:
    """Gradients of a scaled loss on all tokens but padding and, as it attends to nothing, what padding predicts."""
    model.zero_grad()
    mask = inputs["attention_mask"]
    labels = inputs["input_ids"].masked_fill((mask == 0) | (mask.roll(1, dims=-1) == 0), -100)
    scaled(model(**inputs, labels=labels).loss, beta=scale).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@every_half
@pytest.mark.parametrize("padding", ["left", "right"])
def test_weights_activations_and_gradients_are_numbers_of_the_format(
    family: str, network: Any, tokens: Any, format: Format, padding: str
) -> None:
    model = adapt(network(family))
    inputs, precision = tokens(padding=padding), HalfPrecision(format, "nearest")
    exact = step(model.module, inputs)
    with precision.installed(model.module), capture(model.module, model.sites.activations()) as seen:
        assert all(is_of(p, format) for p in model.module.parameters())
        with precision.running():
            found = step(model.module, inputs)
    assert seen and all(is_of(x.detach(), format) for x in seen.values())
    assert found.keys() == exact.keys() and all(is_of(g, format) for g in found.values())
    total = sum(float((found[name] - exact[name]).square().sum()) for name in exact)
    # A whole network of roundings, each of half a step of 2^-mantissa_bits, and no more.
    assert total**0.5 <= 16 * 2.0**-format.mantissa_bits * sum(float(g.square().sum()) for g in exact.values()) ** 0.5


@every_half
def test_a_network_computes_in_float32_again_afterwards(family: str, network: Any, tokens: Any, format: Format) -> None:
    model = adapt(network(family)).module
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(cast(parameter, format))
    before, precision = model(**tokens()).logits, HalfPrecision(format, "nearest")
    with precision.installed(model), precision.running():
        assert not torch.equal(model(**tokens()).logits, before)
    assert torch.equal(model(**tokens()).logits, before)


def test_logits_are_those_of_torch_s_own_half_precision(decoder: str, network: Any, tokens: Any) -> None:
    model = adapt(network(decoder)).module
    precision = HalfPrecision(FP16, "nearest")
    with torch.no_grad():
        with precision.installed(model), precision.running():
            simulated = model(**tokens()).logits
        real = model.half()(**tokens()).logits.float()
    # Torch fuses some operations that are rounded one by one here.
    torch.testing.assert_close(simulated, real, rtol=0, atol=16 * 2.0**-10 * float(real.abs().max()))


class Squares(nn.Module):
    """A normalisation whose squares leave FP16."""

    def __init__(self) -> None:
        super().__init__()
        self.projection, self.norm = nn.Linear(8, 8), RMSNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.projection(x) * 1000)  # type: ignore[no-any-return]


class RMSNorm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True))


def test_statistics_of_a_normalisation_are_float32_both_ways() -> None:
    torch.manual_seed(0)
    network, x, gradient = Squares(), torch.randn(4, 8), torch.randn(4, 8)
    precision = HalfPrecision(FP16, "nearest")
    with precision.installed(network), precision.running():
        y = network(x)
        y.backward(gradient)
    assert is_of(y.detach(), FP16) and "norm" in precision._islands
    inner = (cast(nn.functional.linear(x, network.projection.weight, network.projection.bias), FP16) * 1000).half()
    leaf = inner.float().detach().requires_grad_()
    expected = network.norm(leaf)
    expected.backward(gradient)
    torch.testing.assert_close(y, expected, rtol=2.0**-10, atol=0)
    assert network.projection.weight.grad is not None and network.projection.weight.grad.isfinite().all()


@pytest.mark.parametrize("scale", [2.0**-8, 1024.0])
def test_a_power_of_two_on_the_loss_changes_nothing_where_exponents_are_plenty(
    network: Any, tokens: Any, scale: float
) -> None:
    model, precision = adapt(network("gpt2")).module, HalfPrecision(BF16, "nearest")
    with precision.installed(model), precision.running():
        plain, lifted = step(model, tokens()), step(model, tokens(), scale)
    assert all(torch.equal(lifted[name], plain[name] * scale) for name in plain)


def test_a_loss_scale_lifts_gradients_of_fp16_that_would_underflow(network: Any, tokens: Any) -> None:
    model, lost = adapt(network("gpt2")).module, []
    for scale in (2.0**-16, 2.0**10):
        precision = HalfPrecision(FP16, "nearest")
        precision.tally.restart(open=True)
        with precision.installed(model), precision.running():
            step(model, tokens(), scale)
        lost.append(precision.tally.gradient_underflow())
    assert lost[0] > 0.2 and lost[1] < 0.01


def test_a_unit_scaled_loss_leaves_float32_only_at_unit_scale() -> None:
    torch.manual_seed(0)
    head, x, targets = nn.Sequential(nn.Linear(16, 500)), torch.randn(256, 16), torch.arange(256)
    precision = HalfPrecision(FP16, "nearest")
    with precision.installed(head), precision.running():
        logits, arrived = head(x), []
        logits.grad_fn.register_hook(lambda inside, outside: arrived.append(inside[0]))
        cross_entropy(logits, targets).backward()
    exact = logits.detach().requires_grad_()
    cross_entropy(exact, targets).backward()
    # Rounded once: the gradient of the mean, some 2^-17, would have lost most of its bits to FP16 before.
    assert torch.equal(arrived[0], cast(exact.grad, FP16))  # type: ignore[arg-type]


def test_nearest_rounding_freezes_weights_and_stochastic_does_not() -> None:
    found = {}
    for rounding in ("nearest", "stochastic"):
        torch.manual_seed(0)
        layer = nn.Sequential(nn.Linear(64, 64, bias=False))
        nn.init.ones_(layer[0].weight)  # type: ignore[arg-type]
        precision = HalfPrecision(FP16, rounding)  # type: ignore[arg-type]
        optimizer = torch.optim.SGD(layer.parameters(), lr=2.0**-14)
        with precision.installed(layer):
            for _ in range(16):
                layer[0].weight.grad = torch.ones(64, 64)
                optimizer.step()
                precision.after_step(optimizer, 1.0)
        assert is_of(layer[0].weight.detach(), FP16)  # type: ignore[arg-type, operator]
        found[rounding] = 1.0 - float(layer[0].weight.detach().mean())  # type: ignore[operator, arg-type]
    assert found["nearest"] == 0.0
    # 16 updates of 2^-14 sum to 2^-10; each weight's error stays below one step of 2^-11, and 4096 weights average it.
    assert found["stochastic"] == pytest.approx(2.0**-10, rel=0.1)


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_the_first_moment_is_kept_in_the_format_at_the_scale_of_the_loss(scale: float) -> None:
    layer, precision = nn.Sequential(nn.Linear(8, 8)), HalfPrecision(FP16, "nearest")
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-3)
    with precision.installed(layer):
        torch.manual_seed(0)
        layer[0].weight.grad = torch.randn(8, 8) * 1e-8
        optimizer.step()
        precision.after_step(optimizer, scale)
    state = optimizer.state[layer[0].weight]
    assert is_of(state["exp_avg"] * scale, FP16) and not is_of(state["exp_avg_sq"], FP16)
    assert bool(state["exp_avg"].any()) is (scale > 1)


def test_the_certificate_says_what_was_rounded_and_what_was_not(network: Any, tokens: Any) -> None:
    model, precision = adapt(network("llama")).module, HalfPrecision(FP16, "nearest")
    with precision.installed(model), precision.running():
        step(model, tokens())
        proof = precision.certificate(Recorder())
    assert {"aten::mm", "aten::bmm", "aten::_safe_softmax", "aten::silu"} <= proof["rounded"].keys()
    assert {"aten::_log_softmax", "model.norm", "model.rotary_emb"} <= set(proof["in_float32"])
    assert not proof["rounded"].keys() & {"aten::pow", "aten::rsqrt", "aten::cos"}
