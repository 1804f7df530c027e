"""Runs the Triton back end in Triton's interpreter, on CPU tensors; prints {case: what went wrong, or null} as JSON.

A process of its own, since ``TRITON_INTERPRET=1`` must be set before Triton is imported: see test_triton.py.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor

from qexp.kernels.int8 import triton_launch
from qexp.kernels.int8.backends import LinearSpec, find, pack_with
from qexp.kernels.int8.composition import composed_linear
from qexp.kernels.quantize import QParams, quantize

TRITON, REFERENCE = find("triton"), find("reference")
SHAPES = [(1, 1, 1), (3, 2, 17), (19, 33, 37)]
"""M, K, N. The interpreter's blocks are 16 x 32 x 32: odd tails everywhere."""
GRIDS = {
    "unsigned 8 bits": QParams(torch.tensor(0.02), torch.tensor(117, dtype=torch.int32), 0, 255),
    "signed 8 bits": QParams(torch.tensor(0.03), torch.tensor(0, dtype=torch.int32), -128, 127),
    "unsigned 4 bits": QParams(torch.tensor(0.4), torch.tensor(7, dtype=torch.int32), 0, 15),
}


def codes(dtype: torch.dtype, *shape: int) -> Tensor:
    ends = torch.iinfo(dtype)
    return torch.randint(ends.min, ends.max + 1, shape, dtype=dtype)


def operands(m: int, k: int, n: int) -> Iterator[tuple[Tensor, Tensor]]:
    yield codes(torch.int8, 2, m, k), codes(torch.int8, 2, n, k)
    yield codes(torch.uint8, 2, m, k), codes(torch.int8, 2, n, k)
    for dtype, left, right in (
        *((torch.int8, -128, -128), (torch.int8, 127, -128), (torch.int8, 127, 127)),
        *((torch.uint8, 255, 127), (torch.uint8, 255, -128), (torch.uint8, 0, -128)),
    ):
        yield torch.full((2, m, k), left, dtype=dtype), torch.full((2, n, k), right, dtype=torch.int8)


def products_are_those_of_int64() -> None:
    for shape in SHAPES:
        for a, b in operands(*shape):
            truth = (a.long() @ b.long().transpose(1, 2)).to(torch.int32)
            packed = pack_with(TRITON, b[1])
            assert torch.equal(packed.unpack(), b[1])
            assert torch.equal(TRITON.matmul(a[1], packed), truth[1]), shape
            assert torch.equal(TRITON.batched_matmul(a, b), truth), shape


def products_are_exact_in_more_blocks_than_go_together() -> None:
    a, b = codes(torch.uint8, 1, 150, 40), codes(torch.int8, 1, 70, 40)
    assert torch.equal(TRITON.batched_matmul(a, b).long(), a.long() @ b.long().transpose(1, 2))


def products_are_exact_where_a_gpu_has_no_descriptors() -> None:
    here = triton_launch._reads_descriptors
    triton_launch._reads_descriptors = lambda device: False
    try:
        products_are_those_of_int64()
    finally:
        triton_launch._reads_descriptors = here


def agrees(x: Tensor, weight: Tensor, spec: LinearSpec) -> bool:
    """The layer against its parts on the reference back end: same type, same bits."""
    ours = TRITON.linear(x, replace(spec, weight=pack_with(TRITON, weight)))
    truth = composed_linear(REFERENCE, x, replace(spec, weight=pack_with(REFERENCE, weight)))
    return ours is not None and ours.dtype == truth.dtype and torch.equal(ours, truth)


def layer_is_bit_for_bit_its_parts() -> None:
    for m, k, n in SHAPES:
        x, weight = torch.randn(m, k), codes(torch.int8, n, k)
        scales = (torch.rand(n) * 1e-3, torch.tensor(3e-4))
        zeros = (None, torch.randint(-128, 128, (n,), dtype=torch.int32), torch.tensor(-3, dtype=torch.int32))
        biases = (torch.randn(n), None)
        for index, (grid, output) in enumerate(product(GRIDS.values(), (None, *GRIDS.values()))):
            spec = LinearSpec(
                pack_with(TRITON, weight),
                grid,
                scales[index % 2],
                zeros[index % 3],
                biases[index // 2 % 2],
                output,
                False,
            )
            assert agrees(x, weight, spec), (m, k, n, index)
            assert output is None or agrees(x, weight, replace(spec, codes=True)), (m, k, n, index, "codes")


def half_precision_is_read_as_it_is() -> None:
    weight = codes(torch.int8, 20, 48)
    spec = LinearSpec(pack_with(TRITON, weight), GRIDS["unsigned 8 bits"], torch.rand(20), None, None, None, False)
    for dtype in (torch.float16, torch.bfloat16):
        assert agrees((torch.randn(9, 48) * 3).to(dtype), weight, spec), dtype


def division_is_true_and_ties_go_to_even() -> None:
    """Quotients at and one unit beside every half integer, where a product with 1 / scale rounds to other codes."""
    for scale, grid in product((0.5, 0.1, 0.0123, 3e-5), GRIDS.values()):
        p = replace(grid, scale=torch.tensor(scale))
        halves = (torch.arange(-300, 300) + 0.5) * p.scale
        x = torch.stack(
            [halves, torch.nextafter(halves, torch.tensor(9e9)), torch.nextafter(halves, -torch.tensor(9e9))]
        )
        stored = torch.empty(3, 608, dtype=torch.int8)
        shift = 128 if p.qmin == 0 else 0
        assert not triton_launch.quantize(x, stored, p, shift)
        assert torch.equal(stored[:, :600].int() + shift, quantize(x, p)), scale
        assert not stored[:, 600:].any()


def huge_values_are_clamped() -> None:
    x = torch.tensor([[3e38, -3e38, 1e-45, 0.0, -0.0] * 4])
    weight = codes(torch.int8, 3, 20)
    for grid in GRIDS.values():
        spec = LinearSpec(pack_with(TRITON, weight), grid, torch.rand(3), None, None, None, False)
        assert agrees(x, weight, spec)


def nan_and_infinity_are_refused() -> None:
    weight = codes(torch.int8, 3, 20)
    spec = LinearSpec(pack_with(TRITON, weight), GRIDS["signed 8 bits"], torch.rand(3), None, None, None, False)
    for value, place in product((float("nan"), float("inf"), -float("inf")), ((0, 0), (4, 19))):
        x = torch.randn(5, 20)
        x[place] = value
        try:
            TRITON.linear(x, spec)
        except ValueError as error:
            assert "NaN or infinity" in str(error)
        else:
            raise AssertionError(f"{value} at {place} went through")


def the_dispatcher_sees_the_products() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, op, types, args=(), kwargs=None):
            seen.append(op.name())
            return op(*args, **(kwargs or {}))

    weight = codes(torch.int8, 3, 20)
    spec = LinearSpec(pack_with(TRITON, weight), GRIDS["signed 8 bits"], torch.rand(3), None, None, None, False)
    with Recorder():
        TRITON.linear(torch.randn(5, 20), spec)
        TRITON.matmul(codes(torch.int8, 5, 20), spec.weight)
    assert [name for name in seen if name.startswith("qexp")] == list(reversed(TRITON.products))


CASES: list[Callable[[], None]] = [
    products_are_those_of_int64,
    products_are_exact_in_more_blocks_than_go_together,
    products_are_exact_where_a_gpu_has_no_descriptors,
    layer_is_bit_for_bit_its_parts,
    half_precision_is_read_as_it_is,
    division_is_true_and_ties_go_to_even,
    huge_values_are_clamped,
    nan_and_infinity_are_refused,
    the_dispatcher_sees_the_products,
]


def outcome(case: Callable[[], None]) -> str | None:
    torch.manual_seed(0)
    try:
        case()
    except Exception:
        return traceback.format_exc()
    return None


if __name__ == "__main__":
    print(json.dumps({case.__name__: outcome(case) for case in CASES}))
