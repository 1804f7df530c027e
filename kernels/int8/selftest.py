"""Whether a back end is exact in this process: saturation is silent, so it must be looked for.

The truth is a float64 product, exact since every partial sum is an integer far below 2^53.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from qexp.kernels.int8.backends import Backend, LinearSpec, pack_with
from qexp.kernels.int8.composition import composed_linear
from qexp.kernels.quantize import QParams

SHAPES = (
    *((1, 1, 1), (9, 1, 20), (20, 33, 1), (1, 7, 5), (3, 2, 17), (5, 13, 33)),
    *((8, 64, 64), (17, 384, 100), (64, 1000, 96), (130, 771, 200)),
)
"""M, K, N: single rows, odd sizes, and sizes past the block of any kernel."""


def self_test(backend: Backend) -> str | None:
    """None if the back end gives exact results on extreme and random codes in many shapes, else what was wrong."""
    try:
        return next(_failures(backend), None)
    except Exception as error:  # a compiler or driver that does not work shows itself in errors of many types
        return f"failed: {(str(error) or type(error).__name__).splitlines()[0]}"


def _failures(backend: Backend) -> Iterator[str]:
    for m, k, n in SHAPES:
        for what, a, b in _operands(m, k, n):
            if (wrong := _wrong_product(backend, a.to(backend.device), b.to(backend.device))) is not None:
                yield f"{wrong}: {what} in {m} x {k} x {n}"
        if type(backend).linear is not Backend.linear and not _linear_agrees(backend, m, k, n):
            yield f"the fused layer differs from its parts in {m} x {k} x {n}"


def _wrong_product(backend: Backend, a: Tensor, b: Tensor) -> str | None:
    truth = (a.double() @ b.double().T).to(torch.int32)
    packed = pack_with(backend, b)
    if not torch.equal(backend.unpack(packed.tensors, *b.shape), b):
        return "the packed weight is not the weight"
    if not torch.equal(backend.matmul(a, packed), truth):
        return "wrong sums"
    if type(backend).batched_matmul is Backend.batched_matmul:
        return None
    batch = backend.batched_matmul(torch.stack([a, a]), torch.stack([b, b]))
    return None if torch.equal(batch, torch.stack([truth, truth])) else "wrong sums in a batch"


def _operands(m: int, k: int, n: int) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Codes [M, K] and [N, K]: constant extremes, signs that change every two (which hides in the sum), random."""
    extremes = {"all -128 x all 127": (-128, 127), "all -128 x all -128": (-128, -128), "all 127 x all 127": (127, 127)}
    for what, (left, right) in extremes.items():
        yield what, _full(m, k, left), _full(n, k, right)
    unsigned = torch.full((m, k), 255, dtype=torch.uint8)
    yield "all 255 x all 127", unsigned, _full(n, k, 127)
    yield "all 255 x all -128", unsigned, _full(n, k, -128)
    pairs = torch.where(torch.arange(k) // 2 % 2 == 0, 127, -128).to(torch.int8)
    yield "all 255 x alternating pairs", unsigned, pairs.expand(n, k)
    yield "alternating pairs x alternating pairs", pairs.expand(m, k).contiguous(), pairs.expand(n, k)
    generator = torch.Generator().manual_seed(m * k * n)
    weight = _random(-128, 127, n, k, generator).to(torch.int8)
    yield "random int8", _random(-128, 127, m, k, generator).to(torch.int8), weight
    yield "random uint8", _random(0, 255, m, k, generator).to(torch.uint8), weight


def _full(rows: int, depth: int, value: int) -> Tensor:
    return torch.full((rows, depth), value, dtype=torch.int8)


def _random(low: int, high: int, rows: int, depth: int, generator: torch.Generator) -> Tensor:
    return torch.randint(low, high + 1, (rows, depth), generator=generator)


def _linear_agrees(backend: Backend, m: int, k: int, n: int) -> bool:
    """Whether ``backend.linear`` gives, where it gives anything, what its parts give."""
    generator = torch.Generator().manual_seed(m + k + n)
    x = torch.randn(m, k, generator=generator).to(backend.device)
    b = _random(-128, 127, n, k, generator).to(backend.device, torch.int8)
    scale = torch.rand(n, generator=generator).to(backend.device) * 1e-4
    bias = torch.randn(n, generator=generator).to(backend.device)
    zero_point = torch.tensor(117, dtype=torch.int32, device=backend.device)
    grid = QParams(torch.tensor(0.02, device=backend.device), zero_point, 0, 255)
    packed = pack_with(backend, b)
    for output in (None, grid):
        spec = LinearSpec(packed, grid, scale, None, bias, output, codes=False)
        fused = backend.linear(x, spec)
        if fused is not None and not torch.equal(fused, composed_linear(backend, x, spec)):
            return False
    return True
