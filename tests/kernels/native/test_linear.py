"""The fused layer: the same bits as the same steps one by one, with torch's own operators and an int64 product."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qexp.kernels import native

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason=f"no native kernels: {native.unavailable()}")


@dataclass(frozen=True)
class Grid:
    scale: float
    zero_point: int
    qmin: int
    qmax: int

    def codes(self, x: Tensor) -> Tensor:
        """round(x / scale) before the zero point, true division in float32, half to even."""
        return (torch.round(x / torch.tensor(self.scale)) + self.zero_point).clamp(self.qmin, self.qmax).long()

    @property
    def numbers(self) -> tuple[float, int, int, int]:
        return float(torch.tensor(self.scale)), self.zero_point, self.qmin, self.qmax


UINT8, INT8, INT4 = Grid(0.031, 117, 0, 255), Grid(0.04, 0, -128, 127), Grid(0.5, -2, -8, 7)
GRIDS = {"uint8": UINT8, "int8": INT8, "int4": INT4, "zero point outside": Grid(0.02, -40, 0, 255)}


@dataclass(frozen=True)
class Layer:
    weight: Tensor
    scale: Tensor
    zero_point: Tensor | None = None
    bias: Tensor | None = None
    output: Grid | None = None

    def stepwise(self, x: Tensor, grid: Grid) -> Tensor:
        """float32, or int64 codes if there is an output grid."""
        zeros = torch.zeros(1, dtype=torch.int64) if self.zero_point is None else self.zero_point.long()
        weight = self.weight.long() - zeros.expand(len(self.weight))[:, None]
        y = ((grid.codes(x) - grid.zero_point) @ weight.t()).float() * self.scale
        y = y if self.bias is None else y + self.bias
        return y if self.output is None else self.output.codes(y)

    def run(self, x: Tensor, grid: Grid, *, codes: bool = False, chain: int | None = None) -> Tensor:
        packed = torch.ops.qexp.int8_pack(self.weight, chain)
        output: tuple[Any, ...] = (None, 0, 0, 0) if self.output is None else self.output.numbers
        result: Tensor = torch.ops.qexp.int8_linear(
            x, packed, *grid.numbers, self.scale, self.zero_point, self.bias, *output, codes
        )
        return result

    def check(self, x: Tensor, grid: Grid, chain: int | None = None) -> None:
        want = self.stepwise(x, grid)
        if self.output is None:
            assert torch.equal(self.run(x, grid, chain=chain), want)
            return
        codes = self.run(x, grid, codes=True, chain=chain)
        assert codes.dtype == (torch.int8 if self.output.qmin < 0 else torch.uint8)
        assert torch.equal(codes.long(), want)
        dequantized = (want - self.output.zero_point).float() * torch.tensor(self.output.scale)
        assert torch.equal(self.run(x, grid, chain=chain), dequantized)


def random(m: int, n: int, k: int, seed: int = 0, std: float = 40.0) -> tuple[Tensor, Layer]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(m, k, generator=generator) * 3
    weight = (torch.randn(n, k, generator=generator) * std).round().clamp(-128, 127).to(torch.int8)
    scale, bias = torch.rand(n, generator=generator) * 1e-3, torch.randn(n, generator=generator)
    zero_point = torch.randint(-128, 128, (n,), generator=generator, dtype=torch.int32)
    return x, Layer(weight, scale, zero_point, bias, Grid(0.05, 100, 0, 255))


@pytest.mark.parametrize("chain", [0, 1, 2, 4])
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_every_part_with_every_form(grid: Grid, chain: int) -> None:
    x, layer = random(11, 37, 75)
    for zero_point in (None, layer.zero_point, torch.tensor(3, dtype=torch.int32)):
        for bias in (None, layer.bias):
            for output in (None, layer.output, INT8):
                replace(layer, zero_point=zero_point, bias=bias, output=output).check(x, grid, chain)


@given(
    st.integers(1, 70),
    st.integers(1, 50),
    st.integers(1, 200),
    st.sampled_from(list(GRIDS.values())),
    st.sampled_from([1.0, 20.0, 200.0]),
)
def test_random_shapes(m: int, n: int, k: int, grid: Grid, std: float) -> None:
    x, layer = random(m, n, k, seed=k, std=std)
    layer.check(x, grid)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_every_code_and_every_tie_of_the_input(grid: Grid) -> None:
    """The identity as a weight returns what the input was quantized to, here on every half step of the grid."""
    halves = torch.arange(-700, 700)[:, None] * (torch.tensor(grid.scale) / 2)
    x = torch.cat([halves, torch.tensor([[1e30], [-1e30], [0.0], [-0.0], [3e38]])])
    layer = Layer(torch.ones(1, 1, dtype=torch.int8), torch.ones(()))
    assert torch.equal(layer.run(x, grid).long(), grid.codes(x) - grid.zero_point)


def test_a_sum_is_rounded_to_float_before_it_is_scaled() -> None:
    """255 * 127 * 2047 takes 26 bits."""
    layer = Layer(torch.full((1, 2047), 127, dtype=torch.int8), torch.tensor(0.1))
    layer.check(torch.full((2, 2047), 255.0), Grid(1.0, 0, 0, 255))


def test_the_bias_is_added_after_rounding() -> None:
    """In one fused multiply-add the small bias would survive in another way for some of these."""
    x, layer = random(64, 64, 64)
    biased = replace(layer, scale=torch.rand(64) + 1, bias=torch.rand(64), output=None)
    biased.check(x, UINT8)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 31, 32, 70])
def test_what_is_not_finite_is_an_error(value: float, place: int) -> None:
    x, layer = random(3, 4, 71)
    x[1, place] = value
    with pytest.raises(ValueError, match="NaN or infinity in the input"):
        layer.run(x, UINT8)


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (3, 4, 0)])
def test_empty(shape: tuple[int, int, int]) -> None:
    x, layer = random(*shape)
    layer.check(x, UINT8)


def test_any_strides() -> None:
    x, layer = random(8, 9, 10)
    assert torch.equal(layer.run(x.t().contiguous().t(), UINT8), layer.run(x, UINT8))


def test_threads_change_nothing() -> None:
    x, layer = random(130, 200, 256)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            layer.check(x, INT8)
    finally:
        torch.set_num_threads(before)


def test_wrong_arguments_are_named() -> None:
    x, layer = random(2, 3, 4)
    with pytest.raises(ValueError, match=r"an input \[M, 4\]"):
        layer.run(x[:, :3], UINT8)
    with pytest.raises(TypeError, match="float32 input"):
        layer.run(x.double(), UINT8)
    with pytest.raises(ValueError, match=r"the grid is \[0, 4095\]"):
        layer.run(x, replace(UINT8, qmax=4095))
    with pytest.raises(ValueError, match="bias must have 1 or 3 elements"):
        replace(layer, bias=torch.zeros(2)).run(x, UINT8)
    with pytest.raises(TypeError, match="scale must be"):
        replace(layer, scale=layer.scale.double()).run(x, UINT8)
    with pytest.raises(ValueError, match="codes need an output grid"):
        replace(layer, output=None).run(x, UINT8, codes=True)
