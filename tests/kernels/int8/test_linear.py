"""The integer linear layer, bit for bit what its formulas say, on every back end."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qexp.kernels import reference
from qexp.kernels.int8 import int8_linear, pack_weight, quantize_codes
from qexp.kernels.quantize import QParams, dequantize, fake_quantize, grid, qparams_from_range, quantize


@dataclass(frozen=True)
class Layer:
    """A random layer and its input."""

    x: Tensor
    input: QParams
    weight: Tensor
    scale: Tensor
    zero_point: Tensor | None
    bias: Tensor | None
    output: QParams

    def run(self, backend: str, output: bool = False, codes: bool = False) -> Tensor:
        weight = pack_weight(self.weight, backend)
        grid_out = self.output if output else None
        return int8_linear(
            self.x, weight, self.input, self.scale, self.bias, grid_out, weight_zero_point=self.zero_point, codes=codes
        )

    def truth(self) -> Tensor:
        n = len(self.weight)
        return reference.int8_linear(
            self.x,
            self.weight,
            plain(self.input),
            self.scale.expand(n).tolist(),
            [0] * n if self.zero_point is None else self.zero_point.expand(n).tolist(),
            [0.0] * n if self.bias is None else self.bias.tolist(),
        )


def plain(p: QParams) -> tuple[float, int, int, int]:
    return p.scale.item(), int(p.zero_point), p.qmin, p.qmax


def make_layer(
    m: int,
    k: int,
    n: int,
    seed: int,
    bits: int = 8,
    symmetric: bool = False,
    per_channel: bool = True,
    weight_zero_point: bool = False,
    bias: bool = True,
) -> Layer:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(m, k, generator=g) * 3 - 0.5
    low, high = x.amin() * 0.9, x.amax() * 0.9
    channels = n if per_channel else 1
    qmin, qmax = grid(bits, signed=True)
    zero_point = torch.randint(-128, 128, (channels,), generator=g, dtype=torch.int32)
    y_range = torch.rand(2, generator=g) * k**0.5 * torch.tensor([-1.0, 1.0])
    return Layer(
        x,
        qparams_from_range(low, high, bits, symmetric),
        torch.randint(qmin, qmax + 1, (n, k), generator=g).to(torch.int8),
        torch.rand(channels, generator=g) / 2**bits,
        zero_point if weight_zero_point else None,
        torch.randn(n, generator=g) if bias else None,
        qparams_from_range(*y_range, bits, symmetric),
    )


FLAG = st.booleans()


@settings(max_examples=100)
@given(
    m=st.integers(1, 4),
    k=st.integers(1, 40),
    n=st.integers(1, 9),
    seed=st.integers(0, 2**20),
    bits=st.integers(2, 8),
    symmetric=FLAG,
    per_channel=FLAG,
    weight_zero_point=FLAG,
    bias=FLAG,
)
def test_equals_the_formulas_bit_for_bit(backend: str, m: int, k: int, n: int, seed: int, **kind: bool) -> None:
    layer = make_layer(m, k, n, seed, **kind)
    y = layer.truth()
    assert torch.equal(layer.run(backend), y)
    codes = reference.quantize(y, *plain(layer.output))
    on_grid = reference.fake_quantize(y, *plain(layer.output))
    assert torch.equal(layer.run(backend, output=True), on_grid)
    in_codes = layer.run(backend, output=True, codes=True)
    assert in_codes.dtype == (torch.int8 if layer.output.qmin < 0 else torch.uint8)
    assert torch.equal(in_codes.long(), codes)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("shape", [(1, 384, 96), (37, 200, 130), (130, 1031, 65)])
def test_layers_of_real_sizes_agree_on_every_back_end(
    backend: str, shape: tuple[int, int, int], per_channel: bool
) -> None:
    layer = make_layer(*shape, seed=1, per_channel=per_channel)
    assert torch.equal(layer.run(backend), layer.run("reference"))
    assert torch.equal(layer.run(backend, output=True), layer.run("reference", output=True))


def test_is_the_simulated_layer_up_to_float_rounding(backend: str) -> None:
    """The same sums, which the simulation adds up in floats: equal to float64 within the three roundings of y."""
    layer = make_layer(20, 300, 30, seed=2)
    x = fake_quantize(layer.x, layer.input).double()
    weight = layer.weight.double() * layer.scale.double()[:, None]
    assert layer.bias is not None
    simulated = torch.nn.functional.linear(x, weight, layer.bias.double())
    torch.testing.assert_close(layer.run(backend).double(), simulated, rtol=1e-6, atol=1e-6)


def test_a_grid_per_token_is_each_row_for_itself(backend: str) -> None:
    layer = make_layer(6, 50, 7, seed=3, weight_zero_point=True)
    x = (layer.x * torch.logspace(-2, 2, 6)[:, None]).reshape(2, 3, 50)
    p = qparams_from_range(x.amin(-1, keepdim=True), x.amax(-1, keepdim=True), 8, symmetric=False)
    weight = pack_weight(layer.weight, backend)

    def run(x: Tensor, p: QParams) -> Tensor:
        return int8_linear(x, weight, p, layer.scale, layer.bias, weight_zero_point=layer.zero_point)

    whole = run(x, p)
    assert whole.shape == (2, 3, 7)
    for i in range(6):
        own = QParams(p.scale.flatten()[i], p.zero_point.flatten()[i], p.qmin, p.qmax)
        assert torch.equal(whole.reshape(6, 7)[i], run(x.reshape(6, 50)[i], own))


@pytest.mark.parametrize("shape", [(5,), (0, 5), (2, 0, 5), (2, 3, 5)])
def test_leading_dimensions_and_empty_inputs(backend: str, shape: tuple[int, ...]) -> None:
    layer = make_layer(1, 5, 4, seed=4)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    y = int8_linear(x, pack_weight(layer.weight, backend), layer.input, layer.scale, layer.bias)
    assert y.shape == (*shape[:-1], 4) and y.dtype == torch.float32
    rows = Layer(x.reshape(-1, 5), layer.input, layer.weight, layer.scale, None, layer.bias, layer.output).truth()
    assert torch.equal(y.reshape(-1, 4), rows)


def test_a_layer_without_inputs_is_its_bias_and_one_without_outputs_is_empty(backend: str) -> None:
    p, bias = QParams(torch.tensor(0.1), torch.tensor(3, dtype=torch.int32), 0, 255), torch.tensor([1.0, -2.0])
    nothing_in = pack_weight(torch.zeros(2, 0, dtype=torch.int8), backend)
    assert int8_linear(torch.zeros(3, 0), nothing_in, p, torch.ones(2), bias).tolist() == [[1.0, -2.0]] * 3
    nothing_out = pack_weight(torch.zeros(0, 4, dtype=torch.int8), backend)
    assert int8_linear(torch.zeros(3, 4), nothing_out, p, torch.ones(1)).shape == (3, 0)


def test_any_strides_and_half_precision(backend: str) -> None:
    layer = make_layer(8, 24, 5, seed=5)
    weight = pack_weight(layer.weight, backend)
    for x in (layer.x.t().contiguous().t(), layer.x[::2], layer.x[:, :].half(), layer.x.bfloat16(), layer.x[1:, :]):
        y = int8_linear(x, weight, layer.input, layer.scale, layer.bias)
        assert torch.equal(y, int8_linear(x.float().contiguous(), weight, layer.input, layer.scale, layer.bias))
        assert y.dtype == torch.float32
    assert layer.zero_point is None and layer.bias is not None
    half = int8_linear(layer.x, weight, layer.input, layer.scale.half(), layer.bias.half())
    assert torch.equal(
        half, int8_linear(layer.x, weight, layer.input, layer.scale.half().float(), layer.bias.half().float())
    )


def test_runs_in_inference_mode_and_from_a_copy(backend: str) -> None:
    layer = make_layer(3, 24, 5, seed=10)
    weight = copy.deepcopy(pack_weight(layer.weight, backend))
    assert torch.equal(weight.unpack(), layer.weight)
    with torch.inference_mode():
        assert torch.equal(int8_linear(layer.x, weight, layer.input, layer.scale, layer.bias), layer.truth())


def test_extreme_inputs_are_clamped(backend: str) -> None:
    layer = make_layer(3, 16, 4, seed=6)
    huge = torch.tensor([3e38, -3e38, 1e30, -1e-38]).repeat(3, 4)
    wide = Layer(huge, layer.input, layer.weight, layer.scale, None, layer.bias, layer.output)
    ends = wide.input.scale * wide.input.low, wide.input.scale * wide.input.high
    inside = Layer(huge.clamp(*ends), layer.input, layer.weight, layer.scale, None, layer.bias, layer.output)
    assert torch.equal(wide.run(backend), inside.run(backend))


def test_thread_count_changes_nothing(backend: str) -> None:
    layer = make_layer(65, 300, 70, seed=7)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(layer.run(backend, output=True))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 17, 40 * 70 - 1])
def test_nan_and_infinity_are_errors(backend: str, bad: float, place: int) -> None:
    layer = make_layer(40, 70, 9, seed=8)
    layer.x.view(-1)[place] = bad
    with pytest.raises(ValueError, match="NaN or infinity in the input"):
        layer.run(backend)
    with pytest.raises(ValueError, match="NaN or infinity in the input"):
        quantize_codes(layer.x, layer.input)


def test_wrong_arguments_are_named() -> None:
    layer = make_layer(2, 5, 4, seed=9)
    weight = pack_weight(layer.weight)
    for wrong in (layer.x.double(), layer.x.int()):
        with pytest.raises(TypeError, match="takes float32 or half precision, not torch"):
            int8_linear(wrong, weight, layer.input, layer.scale)
    with pytest.raises(ValueError, match="the last dimensions must agree: 4 and 5"):
        int8_linear(layer.x[:, :4], weight, layer.input, layer.scale)
    with pytest.raises(ValueError, match="4 output channels need 1 or 4 weight scales, not 3"):
        int8_linear(layer.x, weight, layer.input, layer.scale[:3])
    with pytest.raises(ValueError, match="4 output channels need 1 or 4 weight zero points, not 2"):
        int8_linear(layer.x, weight, layer.input, layer.scale, weight_zero_point=torch.zeros(2, dtype=torch.int32))
    with pytest.raises(ValueError, match="4 output channels need 4 biases, not 3"):
        int8_linear(layer.x, weight, layer.input, layer.scale, torch.zeros(3))
    with pytest.raises(ValueError, match="2 tokens need 1 or 2 grids, not 3"):
        p = QParams(torch.ones(3, 1), torch.zeros(3, 1, dtype=torch.int32), 0, 255)
        int8_linear(layer.x, weight, p, layer.scale)
    with pytest.raises(ValueError, match="codes are asked for without the output grid"):
        int8_linear(layer.x, weight, layer.input, layer.scale, codes=True)
    wide = qparams_from_range(torch.tensor(-1.0), torch.tensor(1.0), 9, symmetric=False)
    for grids in ({"input": wide}, {"input": layer.input, "output": wide}):
        with pytest.raises(ValueError, match=r"at most 8 bits, this one is 0\.\.511"):
            int8_linear(layer.x, weight, weight_scale=layer.scale, **grids)


def test_a_k_that_could_leave_int32_is_an_error() -> None:
    p = QParams(torch.tensor(1.0), torch.tensor(0, dtype=torch.int32), 0, 255)
    x, weight = torch.full((1, 65_793), 255.0), torch.full((1, 65_794), -128, dtype=torch.int8)
    assert int8_linear(x, pack_weight(weight[:, 1:]), p, torch.ones(1)).item() == 65_793 * 255 * -128
    with pytest.raises(ValueError, match="K = 65794 is too long .* at most 65793"):
        int8_linear(torch.ones(1, 65_794), pack_weight(weight), p, torch.ones(1))
    with pytest.raises(ValueError, match="K = 65793 is too long .* at most 33025"):
        zero_point = torch.tensor(127, dtype=torch.int32)
        int8_linear(x, pack_weight(weight[:, 1:]), p, torch.ones(1), weight_zero_point=zero_point)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [True, False])
def test_codes_are_those_of_quantize_in_one_byte(bits: int, symmetric: bool) -> None:
    x = torch.randn(7, 33, generator=torch.Generator().manual_seed(bits)) * 3
    lo, hi = x.amin(), x.amax()
    per_channel = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    for p in (
        qparams_from_range(lo * 0.7, hi * 0.8, bits, symmetric),
        qparams_from_range(*per_channel, bits, symmetric),
    ):
        for values in (x, x.half(), x.t().contiguous().t()):
            codes = quantize_codes(values, p)
            assert codes.dtype == (torch.int8 if p.qmin < 0 else torch.uint8)
            assert torch.equal(codes.int(), quantize(values, p))
    ties = QParams(torch.tensor(0.5), torch.tensor(10, dtype=torch.int32), 0, 255)
    assert quantize_codes(torch.tensor([0.25, 0.75, 1.25, -0.25, -0.75]), ties).tolist() == [10, 12, 12, 10, 8]
    assert torch.equal(dequantize(quantize_codes(x, p), p), fake_quantize(x, p))
