"""Integer attention: exact products, torch's law between them, and the fused operator against the composed one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from qexp.kernels import native
from qexp.kernels.attention import clipped_softmax, stretch_and_offset
from qexp.kernels.int8 import select
from qexp.kernels.int8.attention import FUSED, LONGEST, AttentionGrids, int8_attention
from qexp.kernels.quantize import QParams, fake_quantize, quantize

SOFTMAX, CLIPPED = (0.0, 1.0), (-0.03, 1.03)
LOWEST = torch.finfo(torch.float32).min
HAS_FUSED = native.unavailable() is None
needs_fused = pytest.mark.skipif(not HAS_FUSED, reason=f"no native kernels: {native.unavailable()}")
PATHS = pytest.mark.parametrize("backend", ["reference", pytest.param("avx2", marks=needs_fused)])


def params(scale: float, zero_point: int = 0, signed: bool = False, bits: int = 8) -> QParams:
    qmin = -(2 ** (bits - 1)) if signed else 0
    return QParams(torch.tensor(scale), torch.tensor(zero_point, dtype=torch.int32), qmin, qmin + 2**bits - 1)


GRIDS = AttentionGrids(
    params(0.031, 117), params(0.029, signed=True), params(0.023, 140), params(0.07, 121), params(1 / 255)
)
REVEALING = AttentionGrids(GRIDS.query, GRIDS.key, params(1.0), GRIDS.scores, GRIDS.probs)
"""With the identity as the value, the context is the codes of the probabilities."""


def on(p: QParams, *shape: int, seed: int = 0) -> Tensor:
    """Numbers on a grid, all codes equally likely."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(p.qmin, p.qmax + 1, shape, generator=generator)
    return (codes - p.zero_point).float() * p.scale


def operands(
    grids: AttentionGrids, batch: int, heads: int, length: int, depth: int, kv_heads: int | None = None, keys: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    shape = batch, kv_heads or heads, keys or length, depth
    query = on(grids.query, batch, heads, length, depth)
    return query, on(grids.key, *shape, seed=1), on(grids.value, *shape, seed=2)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    grids: AttentionGrids = GRIDS,
    *,
    scale: float = 0.125,
    mask: Tensor | None = None,
    stretch: tuple[float, float] = SOFTMAX,
    backend: str = "auto",
) -> Tensor:
    def probability(x: Tensor) -> Tensor:
        return clipped_softmax(x, *stretch)

    return int8_attention(
        query, key, value, grids, scale=scale, mask=mask, probability=probability, stretch=stretch, backend=backend
    )


def steps(x: Tensor, p: QParams) -> Tensor:
    return (quantize(x, p) - p.zero_point).long()


def scores_of(query: Tensor, key: Tensor, grids: AttentionGrids, scale: float, mask: Tensor | None) -> Tensor:
    """The scores after the mask, from int64 products."""
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    acc = steps(query, grids.query) @ steps(key, grids.key).transpose(2, 3)
    scores = acc.float() * (grids.query.scale * grids.key.scale) * scale
    scores = scores if grids.scores is None else fake_quantize(scores, grids.scores)
    return scores if mask is None else scores + mask


def context_of(codes: Tensor, value: Tensor, grids: AttentionGrids) -> Tensor:
    """The context from codes (less the zero point) of the probabilities."""
    value = value.repeat_interleave(codes.shape[1] // value.shape[1], 1)
    return (codes.long() @ steps(value, grids.value)).float() * (grids.probs.scale * grids.value.scale)


def slow(
    query: Tensor, key: Tensor, value: Tensor, grids: AttentionGrids, scale: float, mask: Tensor | None, stretch: Any
) -> Tensor:
    probs = clipped_softmax(scores_of(query, key, grids, scale, mask), *stretch)
    return context_of(steps(probs, grids.probs), value, grids)


def revealed(query: Tensor, key: Tensor, grids: AttentionGrids, **settings: Any) -> Tensor:
    """The codes less the zero point of the probabilities that an implementation makes."""
    shown = AttentionGrids(grids.query, grids.key, params(1.0), grids.scores, grids.probs)
    value = torch.eye(key.shape[2]).expand(*key.shape[:2], -1, -1)
    context = attend(query, key, value, shown, **settings) / grids.probs.scale
    codes = context.round()
    # A code is an integer below 256: the product with the scale and the quotient each round by half an ulp.
    assert torch.allclose(context, codes, rtol=2e-7, atol=0)
    return codes


def assert_codes(found: Tensor, scores: Tensor, p: QParams, stretch: tuple[float, float]) -> None:
    """``found`` are the codes of torch's probabilities, or one off within a millionth of the rounding boundary."""
    factor, offset = stretch_and_offset(*stretch, torch.float32)
    inner = torch.softmax(scores, -1).double() * factor
    expected = steps(clipped_softmax(scores, *stretch), p)
    exact = (inner + offset) / p.scale.double()
    to_boundary = (exact - exact.floor() - 0.5).abs() * p.scale.double()
    off = found.long() != expected
    assert ((found.long() - expected).abs() <= 1).all()
    assert (to_boundary[off] <= 1e-6 * inner[off]).all()
    assert off.double().mean() < 1e-3


SHAPES = {
    "one": (1, 1, 1, 1),
    "odd": (2, 3, 7, 5),
    "eight": (1, 2, 8, 16),
    "one more than a panel": (1, 1, 33, 32),
    "several blocks": (1, 2, 300, 24),
    "minilm": (2, 12, 128, 32),
}
EVERY_SHAPE = pytest.mark.parametrize(("batch", "heads", "length", "depth"), SHAPES.values(), ids=SHAPES)


@needs_fused
@EVERY_SHAPE
@pytest.mark.parametrize("stretch", [SOFTMAX, CLIPPED, (-1.0, 1.0)])
@pytest.mark.parametrize("scale", [0.125, 0.9])
def test_fused_codes_are_those_of_torchs_probabilities(
    batch: int, heads: int, length: int, depth: int, stretch: tuple[float, float], scale: float
) -> None:
    query, key, _ = operands(GRIDS, batch, heads, length, depth)
    for grids in (GRIDS, AttentionGrids(GRIDS.query, GRIDS.key, GRIDS.value, None, params(1 / 100, 3))):
        scores = scores_of(query, key, grids, scale, None)
        assert_codes(revealed(query, key, grids, scale=scale, stretch=stretch), scores, grids.probs, stretch)


@needs_fused
@EVERY_SHAPE
def test_fused_context_is_the_exact_product_of_its_codes(batch: int, heads: int, length: int, depth: int) -> None:
    query, key, value = operands(GRIDS, batch, heads, length, depth)
    codes = revealed(query, key, GRIDS)
    assert torch.equal(attend(query, key, value), context_of(codes, value, GRIDS))


@EVERY_SHAPE
@pytest.mark.parametrize("stretch", [SOFTMAX, CLIPPED])
def test_composed_is_the_slow_reference(
    batch: int, heads: int, length: int, depth: int, stretch: tuple[float, float]
) -> None:
    query, key, value = operands(GRIDS, batch, heads, length, depth)
    expected = slow(query, key, value, GRIDS, 0.125, None, stretch)
    assert torch.equal(attend(query, key, value, stretch=stretch, backend="reference"), expected)


def test_composed_on_every_back_end(backend: str) -> None:
    query, key, value = operands(GRIDS, 2, 6, 20, 16, kv_heads=2, keys=35)
    expected = slow(query, key, value, GRIDS, 0.125, None, SOFTMAX)
    found = int8_attention(
        *(query, key, value, GRIDS),
        **{"scale": 0.125, "mask": None, "stretch": None, "backend": backend},
        probability=lambda x: torch.softmax(x, -1),
    )
    assert torch.equal(found, expected)


MASKS: dict[str, Callable[[], Tensor]] = {
    "padding": lambda: torch.zeros(3, 1, 1, 37).index_fill_(3, torch.arange(30, 37), LOWEST),
    "causal": lambda: torch.full((1, 1, 21, 37), -torch.inf).triu(16),
    "of one head": lambda: torch.randn(1, 4, 1, 37, generator=torch.Generator().manual_seed(5)),
    "of everything": lambda: torch.randn(3, 4, 21, 37, generator=torch.Generator().manual_seed(5)),
    "of rows": lambda: torch.randn(3, 1, 21, 1, generator=torch.Generator().manual_seed(5)),
    "two dimensions": lambda: torch.zeros(21, 37).index_fill_(1, torch.arange(0, 9), -torch.inf),
    "whole rows at the lowest": lambda: torch.zeros(1, 1, 21, 37).index_fill_(2, torch.tensor([0, 20]), LOWEST),
    "strided": lambda: torch.randn(37, 21, 1, 1, generator=torch.Generator().manual_seed(5)).permute(2, 3, 1, 0),
    "half precision": lambda: torch.zeros(1, 1, 1, 37, dtype=torch.float16).index_fill_(3, torch.arange(9), -torch.inf),
}


@pytest.mark.parametrize("make", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("stretch", [SOFTMAX, CLIPPED])
def test_masks_and_grouped_keys(make: Callable[[], Tensor], stretch: tuple[float, float]) -> None:
    query, key, value = operands(GRIDS, 3, 4, 21, 10, kv_heads=2, keys=37)
    mask = make()
    expected = slow(query, key, value, GRIDS, 0.3, mask.float(), stretch)
    settings: dict[str, Any] = {"scale": 0.3, "mask": mask, "stretch": stretch}
    assert torch.equal(attend(query, key, value, backend="reference", **settings), expected)
    if HAS_FUSED:
        codes = revealed(query, key, GRIDS, **settings)
        assert_codes(codes, scores_of(query, key, GRIDS, 0.3, mask.float()), GRIDS.probs, stretch)
        assert torch.equal(attend(query, key, value, **settings), context_of(codes, value, GRIDS))


@PATHS
@pytest.mark.parametrize("ends", [(0, 0), (0, -1), (-1, 0), (-1, -1)], ids=str)
@pytest.mark.parametrize("depth", [1, 64, 4096])
def test_extreme_codes_do_not_saturate(backend: str, ends: tuple[int, int], depth: int) -> None:
    """Every code at one end; the scale is such that an error of 1 in 10^4 of the sums shows in the probabilities."""
    for zero_query, zero_key, signed in ((0, 0, False), (255, 255, False), (0, 0, True)):
        query_grid, key_grid = params(1.0, zero_query, signed), params(1.0, zero_key, signed)
        grids = AttentionGrids(query_grid, key_grid, params(1.0), None, params(1 / 255))
        sides = [(p.qmin - p.zero_point, p.qmax - p.zero_point) for p in (query_grid, key_grid)]
        query = torch.full((1, 1, 9, depth), float(sides[0][ends[0]]))
        key = torch.full((1, 1, 19, depth), float(sides[1][ends[1]]))
        key[:, :, ::2, :1] = 0.0
        scores = scores_of(query, key, grids, 1e-4, None)
        assert_codes(revealed(query, key, grids, scale=1e-4, backend=backend), scores, grids.probs, SOFTMAX)


@PATHS
@pytest.mark.parametrize("value_code", [0, 255])
def test_a_long_context_of_extreme_codes(backend: str, value_code: int) -> None:
    """2,000 probabilities of 1 (clipped) times the largest value."""
    for zero_point in (0, 255):
        value_grid = params(0.5, zero_point)
        grids = AttentionGrids(params(1.0), params(1.0), value_grid, None, params(1 / 255))
        query, key = torch.zeros(1, 1, 3, 2), torch.zeros(1, 1, 2000, 2)
        value = torch.full((1, 1, 2000, 3), 0.5 * (value_code - zero_point))
        expected = slow(query, key, value, grids, 1.0, None, (0.0, 4000.0))
        assert torch.equal(attend(query, key, value, grids, stretch=(0.0, 4000.0), backend=backend), expected)


@needs_fused
def test_scores_without_a_spread_and_with_a_huge_one() -> None:
    query, key, _ = operands(GRIDS, 1, 1, 16, 8)
    for scale in (0.0, 1e30, -1e30):
        grids = AttentionGrids(GRIDS.query, GRIDS.key, GRIDS.value, None, GRIDS.probs)
        scores = scores_of(query, key, grids, scale, None)
        assert_codes(revealed(query, key, grids, scale=scale), scores, grids.probs, SOFTMAX)


@PATHS
def test_what_has_no_code_is_named(backend: str) -> None:
    for place, name in enumerate(("query", "key", "value")):
        tensors = list(operands(GRIDS, 1, 2, 5, 4))
        tensors[place][0, 1, 4, 3] = float("nan")
        with pytest.raises(ValueError, match=f"NaN or infinity in the {name}"):
            attend(*tensors, backend=backend)
    for mask in (torch.full((1, 1, 1, 5), -torch.inf), torch.full((1, 1, 1, 1), torch.nan)):
        with pytest.raises(ValueError, match="in the probabilities"):
            attend(*operands(GRIDS, 1, 2, 5, 4), mask=mask, backend=backend)


@PATHS
def test_bad_shapes_are_refused(backend: str) -> None:
    query, key, value = operands(GRIDS, 2, 4, 5, 6)
    for wrong in ((key[:1], value[:1]), (key[..., :3], value), (key[:, :3], value[:, :3]), (key[:, :, :2], value)):
        with pytest.raises(ValueError, match="do not fit"):
            attend(query, *wrong, backend=backend)
    with pytest.raises(ValueError, match=r"\[B, H, T, d\]"):
        attend(query[0], key, value, backend=backend)
    with pytest.raises(ValueError, match="does not broadcast"):
        attend(query, key, value, mask=torch.zeros(2, 1, 1, 4), backend=backend)
    with pytest.raises(TypeError, match="floating point"):
        attend(query, key, value, mask=torch.ones(5, 5, dtype=torch.bool), backend=backend)
    long = torch.zeros(1, 1, LONGEST + 1, 1)
    with pytest.raises(ValueError, match="33025"):
        attend(long[:, :, :1], long, long, backend=backend)


def test_bad_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="8 bits"):
        AttentionGrids(params(1.0, bits=9), GRIDS.key, GRIDS.value, None, GRIDS.probs)
    wide = QParams(torch.ones(3), torch.zeros(3, dtype=torch.int32), 0, 255)
    with pytest.raises(ValueError, match="per tensor"):
        AttentionGrids(GRIDS.query, GRIDS.key, GRIDS.value, wide, GRIDS.probs)


@PATHS
@pytest.mark.parametrize("sizes", [(0, 2, 3, 4), (1, 2, 0, 4)])
def test_empty(backend: str, sizes: tuple[int, int, int, int]) -> None:
    assert attend(*operands(GRIDS, *sizes), backend=backend).shape == sizes
    query, key, value = operands(GRIDS, 1, 2, 3, 4)
    assert not attend(query, key[:, :, :0], value[:, :, :0], backend=backend).any()


@PATHS
def test_strided_and_half_precision_operands(backend: str) -> None:
    tensors = operands(GRIDS, 2, 3, 11, 8)
    expected = attend(*tensors, backend=backend)
    strided = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in tensors]
    assert torch.equal(attend(*strided, backend=backend), expected)
    half = [t.half() for t in tensors]
    assert attend(*half, backend=backend).dtype == torch.float32
    assert torch.equal(attend(*half, backend=backend), attend(*(t.float() for t in half), backend=backend))


@needs_fused
def test_threads_change_nothing() -> None:
    tensors = operands(GRIDS, 2, 3, 70, 16)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(attend(*tensors))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


@needs_fused
def test_the_fused_operator_is_dispatched_where_it_applies() -> None:
    class Dispatched(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.names: list[str] = []

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.namespace == "qexp":
                self.names.append(func._schema.name)
            return func(*args, **(kwargs or {}))

    tensors = operands(GRIDS, 1, 2, 3, 4)
    if select("auto").name in FUSED:
        with Dispatched() as seen:
            attend(*tensors)
        assert seen.names == ["qexp::int8_attention"]
    with Dispatched() as seen:
        attend(*tensors, backend="reference")
    assert "qexp::int8_attention" not in seen.names


@needs_fused
@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX512", reason="the AVX2 kernel is the one tested")
def test_the_avx2_kernel_too() -> None:
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "avx2"}
    command = [sys.executable, "-m", "pytest", __file__, "-q", "-n0", "-k", "fused or masks or extreme or threads"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:]
