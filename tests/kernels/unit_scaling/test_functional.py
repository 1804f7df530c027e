"""The factor table: every op gives standard deviation 1 forward and backward (notes 1.3, 1.4; section 6, laws 2-5)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from qexp.kernels.unit_scaling import elementwise
from qexp.kernels.unit_scaling import functional as U
from qexp.kernels.unit_scaling.rules import PAPER, U_MUP, Rules
from qexp.kernels.unit_scaling.scale import scaled

FREE = PAPER.free
Op = Callable[..., Tensor]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape).requires_grad_()


def stds(op: Op, *inputs: Tensor) -> list[float]:
    """Standard deviations of the output and of every input's gradient, with a N(0, 1) gradient coming in."""
    y = op(*inputs)
    gradients = torch.autograd.grad(y, inputs, torch.randn_like(y))
    return [t.std().item() for t in (y, *gradients)]


def unit(op: Op, *inputs: Tensor, tolerance: float = 0.1) -> None:
    """The authors' tolerance unless the sample allows less."""
    assert stds(op, *inputs) == pytest.approx([1.0] * (1 + len(inputs)), abs=tolerance)


SHAPED: dict[str, tuple[Op, list[Tensor]]] = {
    "matmul": (lambda a, b: U.matmul(a, b, rules=FREE), [normal(128, 256), normal(256, 512)]),
    "matmul_batched": (lambda a, b: U.matmul(a, b, rules=FREE), [normal(4, 64, 128), normal(4, 128, 96)]),
    "matmul_broadcast": (lambda a, b: U.matmul(a, b, rules=FREE), [normal(3, 4, 64, 128), normal(128, 96)]),
    "conv1d": (lambda *t: U.conv1d(*t, padding=3, rules=FREE), [normal(8, 64, 200), normal(128, 64, 7)]),
    "conv1d_groups": (lambda *t: U.conv1d(*t, groups=8, rules=FREE), [normal(8, 64, 200), normal(128, 8, 7)]),
    "conv1d_stride": (lambda *t: U.conv1d(*t, stride=2, rules=FREE), [normal(8, 64, 400), normal(128, 64, 6)]),
    "conv1d_dilation": (lambda *t: U.conv1d(*t, dilation=3, rules=FREE), [normal(8, 64, 800), normal(128, 64, 5)]),
    "dropout": (lambda x: U.dropout(x, 0.3), [normal(2**18)]),
    "add": (lambda a, b: U.add(a, b, FREE), [normal(128, 256), normal(128, 256)]),
    "add_broadcast": (lambda a, b: U.add(a, b, FREE), [normal(128, 4096), normal(4096)]),
    "sum": (lambda x: U.sum(x, rules=FREE), [normal(4096, 64)]),
}


@pytest.mark.parametrize("op, inputs", SHAPED.values(), ids=SHAPED.keys())
def test_free_ops_are_unit_scaled(op: Op, inputs: list[Tensor]) -> None:
    unit(op, *inputs)


@pytest.mark.parametrize("op", [lambda *t: U.linear(*t, rules=FREE), U.linear_readout], ids=["linear", "readout"])
def test_free_linear_layers_are_unit_scaled_with_a_bias_that_is_not_multiplied(op: Op) -> None:
    x, weight, bias = normal(4, 1024, 256), normal(1024, 256), torch.zeros(1024, requires_grad=True)
    unit(op, x, weight, bias)
    shifted = op(x, weight, bias + 3.0) - op(x, weight, bias)
    assert torch.allclose(shifted, torch.tensor(3.0), atol=1e-5)


ACTIVATIONS: dict[str, tuple[Op, Op, tuple[float, float]]] = {
    "relu": (U.relu, F.relu, (1.713, 1.414)),
    "gelu": (U.gelu, F.gelu, (1.701, 1.481)),
    "silu": (U.silu, F.silu, (1.787, 1.624)),
    "tanh": (U.tanh, torch.tanh, (1.593, 1.467)),
    "sigmoid": (U.sigmoid, torch.sigmoid, (4.802, 4.722)),
}
"""Op, torch's, and the published factors (SiLU: the notes' own)."""


@pytest.mark.parametrize("op, plain, factors", ACTIVATIONS.values(), ids=ACTIVATIONS.keys())
def test_activations(op: Op, plain: Op, factors: tuple[float, float]) -> None:
    x = normal(10**6)
    unit(lambda t: op(t, rules=FREE), x, tolerance=0.01)
    forward, backward = stds(lambda t: op(t), x)
    assert forward * backward == pytest.approx(1.0, abs=0.01)
    assert torch.allclose(op(x, rules=FREE), plain(x) * factors[0], rtol=1e-3, atol=0)
    (ours,), (theirs,) = (torch.autograd.grad(f, x) for f in (op(x, rules=FREE).sum(), plain(x).sum()))
    assert torch.allclose(ours, theirs * factors[1], rtol=1e-3, atol=1e-6)
    assert torch.allclose(op(x), plain(x) * math.sqrt(math.prod(factors)), rtol=1e-3, atol=0)


def test_constrained_gelu_is_the_papers() -> None:
    x = torch.tensor([1.0, -2.0])
    assert torch.allclose(U.gelu(x), 1.5876 * F.gelu(x), rtol=1e-3)
    assert torch.allclose(U.gelu(x, approximate="tanh"), 1.5876 * F.gelu(x, approximate="tanh"), rtol=1e-3)
    assert elementwise.RELU == pytest.approx((1.7129, 1.4142), abs=1e-4)


@pytest.mark.parametrize("entries", [1024, 8192])
def test_softmax_is_the_papers_times_the_known_deviation(entries: int) -> None:
    """The paper's factor is s; the exact ones are s / (e - 1)^1/2 and s / e^1/2 for many entries."""
    forward, backward = stds(U.softmax, normal(2**21 // entries, entries))
    assert forward == pytest.approx(math.sqrt(math.e - 1), rel=0.06)
    assert backward == pytest.approx(math.sqrt(math.e), rel=0.06)
    x = torch.randn(3, 5, 7)
    assert torch.allclose(U.softmax(x, dim=1).mean(1), torch.ones(3, 7))
    assert torch.allclose(U.softmax(x, 0), 3 * torch.softmax(x, 0))
    assert U.softmax(x.half()).dtype == torch.float16


@pytest.mark.parametrize("length", [64, 256])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_attention_output_is_near_unit_scale(length: int, dropout: float) -> None:
    inputs = [normal(4, 2, length, 64) for _ in range(3)]
    forward, _, _, value = stds(lambda *t: U.attention(*t, dropout_p=dropout), *inputs)
    assert forward == pytest.approx({64: 0.954, 256: 0.989}[length], abs=0.03)
    assert value == pytest.approx(1.0, abs=0.1)


def test_attention_arguments() -> None:
    query, key, value = (torch.randn(2, 3, 16, 8) for _ in range(3))
    factor = math.sqrt(16 / math.e)
    plain = F.scaled_dot_product_attention
    assert torch.allclose(U.attention(query, key, value), factor * plain(query, key, value), atol=1e-5)
    causal = factor * plain(query, key, value, is_causal=True)
    mask = torch.ones(16, 16, dtype=torch.bool).tril()
    assert torch.allclose(U.attention(query, key, value, is_causal=True), causal, atol=1e-5)
    assert torch.allclose(U.attention(query, key, value, mask), causal, atol=1e-5)
    evaluated = U.attention(query, key, value, dropout_p=0.36, training=False)
    assert torch.allclose(evaluated, 0.8 * U.attention(query, key, value), atol=1e-5)
    u_mup = U_MUP.attention(16, 8, False) * plain(query, key, value, scale=1 / 8)
    assert torch.allclose(U.attention(query, key, value, rules=U_MUP), u_mup, atol=1e-5)


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_norms(norm: str) -> None:
    x, gain, bias = normal(200, 512), torch.ones(512, requires_grad=True), torch.zeros(512, requires_grad=True)
    if norm == "layer":
        unit(lambda *t: U.layer_norm(t[0], [512], *t[1:]), x, gain, bias)
        assert torch.equal(U.layer_norm(x, [512], eps=1e-3), F.layer_norm(x, [512], eps=1e-3))
    else:
        unit(lambda *t: U.rms_norm(t[0], [512], t[1]), x, gain)
        assert torch.equal(U.rms_norm(x, [512], eps=1e-3), F.rms_norm(x, [512], eps=1e-3))


def test_embedding_and_its_unused_padding() -> None:
    table = normal(512, 64)
    tokens = torch.randint(512, (64, 256))
    unit(lambda t: U.embedding(tokens, t), table)
    unit(lambda t: U.embedding(tokens[0, :128], t), table, tolerance=0.15)
    (gradient,) = torch.autograd.grad(U.embedding(tokens, table, padding_idx=7).sum(), table)
    assert (gradient[7] == 0).all() and (gradient[8] != 0).all()


def test_bias_and_gain_get_unit_gradients() -> None:
    x, bias, gain = normal(4, 64, 512), torch.zeros(512, requires_grad=True), torch.ones(512, requires_grad=True)
    unit(U.bias_add, x, bias)
    unit(U.multiply_gain, x, gain)
    by_head = torch.zeros(64, 512, requires_grad=True)
    unit(U.bias_add, x, by_head)
    for op in (U.bias_add, U.multiply_gain):
        with pytest.raises(ValueError, match=r"parameter of shape \(4,\) does not fit an input of \(2, 3\)"):
            op(torch.zeros(2, 3), torch.zeros(4))


@pytest.mark.parametrize("exponent", [-0.5, -0.75, -1.0])
def test_weight_exponent_multiplies_parameter_gradients_only(exponent: float) -> None:
    rules = replace(PAPER, weight_exponent=exponent)
    x, weight, bias, gain = normal(4, 64, 32), normal(16, 32), normal(16), normal(32)
    filters, table, tokens = normal(8, 4, 3), normal(10, 3), torch.randint(10, (4, 40))
    ratio = 256.0 ** (exponent + 0.5)
    cases: list[tuple[Callable[[Rules], Tensor], list[Tensor], list[float]]] = [
        (lambda r: U.linear(x, weight, bias, r), [x, weight, bias], [1.0, ratio, ratio]),
        (lambda r: U.linear_readout(x, weight, bias, r), [x, weight, bias], [1.0, ratio, ratio]),
        (lambda r: U.layer_norm(x, [32], gain, gain, rules=r), [x, gain], [1.0, ratio]),
        (lambda r: U.rms_norm(x, [32], gain, rules=r), [x, gain], [1.0, ratio]),
        (lambda r: U.multiply_gain(x, gain, r), [x, gain], [1.0, ratio]),
        (lambda r: U.bias_add(x, gain, r), [x, gain], [1.0, ratio]),
        (
            lambda r: U.conv1d(x.view(4, 4, 512), filters, padding=1, rules=r),
            [x, filters],
            [1.0, 2048 ** (exponent + 0.5)],
        ),
        (lambda r: U.embedding(tokens, table, rules=r), [table], [16.0 ** (exponent + 0.5)]),
    ]
    for op, inputs, ratios in cases:
        y = op(rules)
        assert torch.equal(y, op(PAPER))
        incoming = torch.randn_like(y)
        new, old = (torch.autograd.grad(op(r), inputs, incoming) for r in (rules, PAPER))
        for a, b, expected in zip(new, old, ratios, strict=True):
            assert torch.allclose(a, b * expected, rtol=1e-4, atol=1e-5)


def test_constraint_identities_of_linear_are_exact() -> None:
    x, weight = torch.randn(40, 64), torch.randn(1024, 64)
    assert torch.equal(U.linear(x, weight), F.linear(x, weight) * (64 * 1024) ** -0.25)  # 1/16, so no rounding
    output = U.linear(x, weight, rules=replace(PAPER, constraint=U_MUP.constraint))
    assert torch.equal(output, F.linear(x, weight / 8))
    odd = torch.randn(100, 64)
    assert torch.allclose(U.linear(x, odd), F.linear(x, odd) * 6400**-0.25, atol=1e-5)
    readout = U.linear_readout(x, odd, rules=U_MUP)
    assert torch.equal(readout, F.linear(x, odd / 64))


@pytest.mark.parametrize("op", [U.linear, U.linear_readout], ids=["linear", "readout"])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("shape", [(5,), (7, 5), (2, 3, 5)])
def test_linear_is_the_building_blocks_in_one(op: Op, with_bias: bool, shape: tuple[int, ...]) -> None:
    x, weight, bias = (normal(*s).double().detach().requires_grad_() for s in (shape, (4, 5), (4,)))
    rows = math.prod(shape[:-1])
    alpha, beta = (20**-0.25, 20**-0.25) if op is U.linear else (5**-0.5, 4**-0.5)
    product = F.linear(scaled(x, beta=beta), scaled(weight, beta=rows**-0.5))
    expected = scaled(product, alpha) + (scaled(bias, beta=rows**-0.5) if with_bias else 0.0)
    y = op(x, weight, bias if with_bias else None)
    inputs, incoming = [x, weight, bias][: 2 + with_bias], torch.randn_like(y)
    pairs = [(y, expected)]
    pairs += zip(*(torch.autograd.grad(t, inputs, incoming) for t in (y, expected)), strict=True)
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in pairs)


def test_half_precision_sums_over_a_batch_do_not_overflow_before_they_are_scaled() -> None:
    """2^17 equal gradients of 1 sum to infinity in half precision, but to 2^8.5 with the factor inside the product."""
    x, weight = torch.ones(2**17, 4).half(), torch.randn(4, 4).half().requires_grad_()
    (gradient,) = torch.autograd.grad(U.linear(x, weight).sum(), weight)
    assert gradient.float().mean().item() == pytest.approx(2**8.5, rel=1e-2)


def test_geometric_mean_balances_forward_and_backward() -> None:
    y, x, weight = stds(U.linear, normal(1024, 256), normal(1024, 256))
    assert y * x == pytest.approx(1.0, abs=0.01) and weight == pytest.approx(1.0, abs=0.01)
    assert math.prod(stds(U.matmul, normal(128, 256), normal(256, 512))) == pytest.approx(1.0, abs=0.01)
    for free in ("left", "right"):
        kept = {"constrain_" + free: False}
        y, left, right = stds(lambda a, b, k=kept: U.matmul(a, b, **k), normal(256, 128), normal(128, 512))
        on, off = (right, left) if free == "left" else (left, right)
        assert off == pytest.approx(1.0, abs=0.02) and y * on == pytest.approx(1.0, abs=0.02)


def test_constrained_matmul_equals_the_plain_one_times_one_factor() -> None:
    a, b = torch.randn(16, 64, requires_grad=True), torch.randn(64, 4, requires_grad=True)
    factor = (64 * 4 * 16) ** (-1 / 6)
    assert torch.allclose(U.matmul(a, b), factor * a @ b, rtol=1e-5)
    assert torch.equal(U.matmul(a, b, rules=replace(PAPER, constraint=U_MUP.constraint)), a @ b / 8)
    incoming = torch.randn(16, 4)
    ours, plain = (torch.autograd.grad(y, (a, b), incoming) for y in (U.matmul(a, b), factor * a @ b))
    assert all(torch.allclose(p, q, rtol=1e-5, atol=1e-6) for p, q in zip(ours, plain, strict=True))
    with pytest.raises(ValueError, match=r"needs matrices, got shapes \(3,\) and \(3, 4\)"):
        U.matmul(torch.zeros(3), torch.zeros(3, 4))


def test_dropout_in_evaluation_is_the_mean_of_training() -> None:
    x = torch.randn(100)
    mean = torch.stack([U.dropout(x, 0.36) for _ in range(2000)]).mean(0)
    assert torch.equal(U.dropout(x, 0.36, training=False), x * 0.8)
    assert torch.allclose(mean, x * 0.8, atol=5 * 0.6 / math.sqrt(2000) * x.abs().max().item())
    assert torch.equal(U.dropout(x, 0.0), x)
    with pytest.raises(ValueError, match="0 <= p < 1"):
        U.dropout(x, 1.0)


def test_sum_arguments() -> None:
    x = torch.randn(2, 3, 16)
    assert torch.allclose(U.sum(x, rules=FREE), x.sum(-1) / 4)
    assert torch.allclose(U.sum(x, (0, 2), keepdim=True, rules=FREE), x.sum((0, 2), keepdim=True) / math.sqrt(32))
    assert torch.allclose(U.sum(x), x.sum(-1) / 2)


@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cross_entropy_is_torchs_with_a_unit_gradient_at_equal_logits(classes: int, reduction: str) -> None:
    logits, target = normal(64, classes), torch.randint(classes, (64,))
    target[::4] = -100
    assert torch.equal(
        U.cross_entropy(logits, target, reduction=reduction), F.cross_entropy(logits, target, reduction=reduction)
    )
    flat = torch.zeros(8, 16, classes, requires_grad=True)
    target = torch.randint(classes, (8, 16))
    (gradient,) = torch.autograd.grad(U.cross_entropy(flat, target, reduction=reduction), flat)
    assert gradient.square().mean().sqrt().item() == pytest.approx(1.0, rel=1e-5)
    assert gradient.std(correction=0).item() == pytest.approx(1.0, rel=1e-5)


def test_cross_entropy_arguments() -> None:
    logits, target = normal(6, 5), torch.tensor([0, 1, 2, 3, 3, 3])
    ours, theirs = U.cross_entropy(logits, target, ignore_index=3), F.cross_entropy(logits, target, ignore_index=3)
    assert torch.equal(ours, theirs)
    (a,), (b,) = (torch.autograd.grad(loss, logits) for loss in (ours, theirs))
    assert torch.allclose(a, b * 6 * 5 / math.sqrt(4))  # all positions count, not only the three that are scored
    half = U.cross_entropy(logits.half(), target)
    assert half.dtype == torch.float32 and half.item() == pytest.approx(
        F.cross_entropy(logits, target).item(), rel=1e-2
    )
    with pytest.raises(ValueError, match="2 or more classes"):
        U.cross_entropy(torch.zeros(3, 1), torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="unknown reduction 'none': mean or sum"):
        U.cross_entropy(logits, target, reduction="none")  # type: ignore[arg-type]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_squared_error_is_torchs_with_unit_gradients(reduction: str) -> None:
    a, b = normal(300, 200), normal(300, 200)
    loss = U.mse_loss(a, b, reduction)
    assert torch.equal(loss, F.mse_loss(a, b, reduction=reduction))
    assert [g.std().item() for g in torch.autograd.grad(loss, (a, b))] == pytest.approx([1.0, 1.0], abs=0.02)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtype_is_the_inputs(dtype: torch.dtype) -> None:
    x, weight = torch.randn(4, 8, 16).to(dtype), torch.randn(16, 16).to(dtype)
    table, ids = torch.randn(5, 16).to(dtype), torch.tensor([0, 4])
    results = [U.linear(x, weight), U.matmul(x, weight), U.gelu(x), U.softmax(x), U.dropout(x), U.add(x, x), U.sum(x)]
    results += [
        U.layer_norm(x, [16], weight[0]),
        U.rms_norm(x, [16]),
        U.embedding(ids, table),
        U.bias_add(x, weight[0]),
    ]
    assert {t.dtype for t in results} == {dtype}


def test_empty_batches_give_empty_results() -> None:
    x, weight = torch.zeros(0, 8, requires_grad=True), torch.randn(4, 8, requires_grad=True)
    for y in (U.linear(x, weight), U.gelu(x), U.layer_norm(x, [8], weight[0]), U.add(x, x), U.softmax(x, 0)):
        assert y.shape[0] == 0
        y.sum().backward()
    assert U.embedding(torch.zeros(0, dtype=torch.long), weight).shape == (0, 8)
