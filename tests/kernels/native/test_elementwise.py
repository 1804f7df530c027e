"""The one-pass operators against torch's, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from qexp.kernels import native
from qexp.kernels.quantize import QParams, dequantize, fake_quantize, qparams_from_range, quantize

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason=f"no native kernels: {native.unavailable()}")

ODD = [0.0, -0.0, 1e-45, -1e-38, 3.4e38, -3.4e38, 1e10, -1e10, 0.5, 1.5, 2.5, -0.5, -1.5, 0.49999997, float("inf")]
BOUNDS = [(-1.0, 3.0), (0.0, 5.1), (-5.1, 0.0), (-1e-6, 1e-6), (-300.0, 20.0)]
SHAPES = {
    "per tensor": ((5, 67), ()),
    "one element": ((5, 67), (1, 1)),
    "axis 0": ((6, 131), (6, 1)),
    "last axis": ((7, 67), (1, 67)),
    "last axis, one dimension": ((3, 5, 67), (67,)),
    "per token": ((2, 5, 67), (2, 5, 1)),
    "middle axis": ((3, 5, 67), (5, 1)),
    "one channel": ((1, 67), (1, 1)),
    "one value each": ((2, 3), (2, 3)),
}
LAYOUTS = pytest.mark.parametrize(("shape", "channels"), SHAPES.values(), ids=SHAPES)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_odd_values(*shape: int) -> Tensor:
    """Gaussian, a third of it numbers at the edges of float32 and ties."""
    x = normal(*shape) * 2
    odd = torch.tensor(ODD)[torch.arange(x.numel()).view(shape) % len(ODD)]
    return torch.where(normal(*shape, seed=1) > 0.5, odd, x)


def grid_for(channels: tuple[int, ...], bits: int = 8, symmetric: bool = False) -> QParams:
    ends = torch.tensor(BOUNDS)[torch.arange(torch.Size(channels).numel()) % len(BOUNDS)]
    return qparams_from_range(ends[:, 0].view(channels), ends[:, 1].view(channels), bits, symmetric, signed=symmetric)


def by_torch(monkeypatch: pytest.MonkeyPatch, compute: Callable[[], Any]) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr(native, "is_loaded", lambda: False)
        return compute()


def assert_same_bits(a: Tensor, b: Tensor, p: QParams | None = None) -> None:
    """NaN is equal to NaN; at the end of a grid that is zero, so are both zeros, of which torch gives either."""
    same = a.view(torch.int32) == b.view(torch.int32)
    same |= a.isnan() & b.isnan()
    if p is not None:
        same |= (a == 0) & (b == 0) & ((p.low == 0) | (p.high == 0))
    assert a.shape == b.shape and bool(same.all())


class Dispatched(TorchDispatchMode):
    """The qexp operators that were called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "qexp":
            self.names.append(func._schema.name.removeprefix("qexp::"))
        return func(*args, **(kwargs or {}))


@LAYOUTS
@pytest.mark.parametrize("bits", [2, 4, 8, 16])
@pytest.mark.parametrize("symmetric", [True, False])
def test_fake_quantize_is_torchs(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], channels: tuple[int, ...], bits: int, symmetric: bool
) -> None:
    p = grid_for(channels, bits, symmetric)
    x = with_odd_values(*shape)
    x.view(-1)[-1] = float("nan")
    assert_same_bits(fake_quantize(x, p), by_torch(monkeypatch, lambda: fake_quantize(x, p)), p)


@pytest.mark.parametrize("length", [*range(1, 40), 1000, 100_003])
def test_every_length(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    x, p = with_odd_values(length), grid_for(())
    assert_same_bits(fake_quantize(x, p), by_torch(monkeypatch, lambda: fake_quantize(x, p)), p)


@LAYOUTS
@pytest.mark.parametrize("leaf", [True, False], ids=["parameter", "activation"])
def test_gradient_is_torchs(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], channels: tuple[int, ...], leaf: bool
) -> None:
    p, incoming = grid_for(channels, 4), with_odd_values(*shape).flip(-1)

    def gradient() -> tuple[Tensor, Tensor]:
        x = with_odd_values(*shape).requires_grad_()
        x.data.view(-1)[0] = float("nan")
        seen = x if leaf else x.view_as(x)
        y = fake_quantize(seen, p)
        y.backward(incoming)
        assert x.grad is not None
        return y.detach(), x.grad

    (y, found), (expected_y, expected) = gradient(), by_torch(monkeypatch, gradient)
    assert_same_bits(y, expected_y, p)
    assert_same_bits(found, expected)


def test_expanded_gradient_and_strided_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    p = grid_for(())

    def gradient() -> Tensor:
        x = with_odd_values(6, 10).nan_to_num(posinf=9.0).requires_grad_()
        fake_quantize((x * 1).t(), p).sum().backward()
        assert x.grad is not None
        return x.grad

    assert_same_bits(gradient(), by_torch(monkeypatch, gradient))


def test_what_is_dispatched() -> None:
    p, x = grid_for(()), normal(4, 6)
    parameter = normal(4, 6).requires_grad_()
    with Dispatched() as seen:
        fake_quantize(x, p)
        fake_quantize(parameter * 1, p).sum().backward()
        fake_quantize(parameter, p).sum().backward()
    assert seen.names == [
        *("fake_quantize", "fake_quantize_masked", "fake_quantize_backward"),
        *("fake_quantize", "fake_quantize_gradient"),
    ]
    with Dispatched() as seen:
        for other in (x.t(), x.double(), x.half()):
            fake_quantize(other, p)
        fake_quantize(x.view(2, 2, 6), grid_for((2, 1, 6)))
    assert seen.names == []


def test_never_builds_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise AssertionError("asked to build")

    monkeypatch.setattr(native, "is_loaded", lambda: False)
    monkeypatch.setattr(native, "unavailable", refuse)
    x = normal(3).requires_grad_()
    fake_quantize(x * 1, grid_for(())).sum().backward()


@LAYOUTS
@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_codes_are_torchs(shape: tuple[int, ...], channels: tuple[int, ...], bits: int, symmetric: bool) -> None:
    p = grid_for(channels, bits, symmetric)
    x = with_odd_values(*shape).clamp(-3.4e38, 3.4e38)
    codes = torch.ops.qexp.quantize(x, p.scale, p.low, p.high, p.qmin)
    assert codes.dtype == (torch.int8 if symmetric else torch.uint8)
    assert torch.equal(codes.int(), quantize(x, p))
    assert_same_bits(torch.ops.qexp.dequantize(codes, p.scale, p.zero_point), dequantize(codes.int(), p))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, 7, 99_999])
def test_what_is_not_finite_has_no_code(bad: float, place: int) -> None:
    p, x = grid_for(()), normal(100_000)
    x[place] = bad
    with pytest.raises(ValueError, match="NaN or infinity in the input"):
        torch.ops.qexp.quantize(x, p.scale, p.low, p.high, p.qmin)


def test_every_code_of_every_byte_grid() -> None:
    for bits in range(2, 9):
        for symmetric in (True, False):
            p = grid_for((), bits, symmetric)
            codes = torch.arange(p.qmin, p.qmax + 1).to(torch.int8 if symmetric else torch.uint8)
            values = torch.ops.qexp.dequantize(codes, p.scale, p.zero_point)
            assert torch.equal(torch.ops.qexp.quantize(values, p.scale, p.low, p.high, p.qmin), codes)


@pytest.mark.parametrize("of_scale", [(), (5,), (4, 1), (4, 5)])
@pytest.mark.parametrize("zero", [(), (4, 1)])
@pytest.mark.parametrize("weight_zero", [None, (), (5,)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_rescale_is_exact_modulo_2_32_then_rounded_step_by_step(
    of_scale: tuple[int, ...], zero: tuple[int, ...], weight_zero: tuple[int, ...] | None, with_bias: bool
) -> None:
    generator = torch.Generator().manual_seed(0)

    def integers(shape: tuple[int, ...], largest: int) -> Tensor:
        return torch.randint(-largest, largest, shape, generator=generator, dtype=torch.int32)

    acc, column_sums, zero_point = integers((4, 5), 2**31 - 1), integers((5,), 2**24), integers(zero, 255)
    weight_zero_point = None if weight_zero is None else integers(weight_zero, 255)
    row_sums = None if weight_zero is None else integers((4, 1), 2**24)
    scale, bias = torch.rand(of_scale, generator=generator), normal(5) if with_bias else None
    whole = acc.long() - zero_point.long() * column_sums
    if weight_zero_point is not None and row_sums is not None:
        whole -= row_sums.long() * weight_zero_point
    expected = whole.to(torch.int32).to(torch.float32) * scale
    expected = expected if bias is None else expected + bias
    found = torch.ops.qexp.rescale(acc, scale, zero_point, column_sums, weight_zero_point, row_sums, bias)
    assert_same_bits(found, expected)


def test_empty_tensors() -> None:
    p, x = grid_for(()), torch.empty(0, 3)
    assert fake_quantize(x, p).shape == (0, 3)
    assert torch.ops.qexp.quantize(x, p.scale, p.low, p.high, p.qmin).shape == (0, 3)
    sums = torch.empty(0, 3, dtype=torch.int32)
    assert torch.ops.qexp.rescale(
        sums, p.scale, p.zero_point, sums.sum(0, dtype=torch.int32), None, None, None
    ).shape == (0, 3)


def test_a_grid_that_does_not_fit_is_refused() -> None:
    p, x = grid_for((3,)), normal(4, 5)
    with pytest.raises(ValueError, match="does not lie over"):
        torch.ops.qexp.quantize(x, p.scale, p.low, p.high, p.qmin)
    with pytest.raises(TypeError, match="float32"):
        torch.ops.qexp.fake_quantize(x.double(), p.scale, p.low, p.high)


def test_threads_change_nothing() -> None:
    x, p = with_odd_values(301, 1001), grid_for((301, 1))
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(fake_quantize(x, p))
    finally:
        torch.set_num_threads(before)
    assert_same_bits(*results)
