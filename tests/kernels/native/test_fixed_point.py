"""The operators of dynamic fixed point against integers and float64, bit for bit."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from qexp.kernels import native
from qexp.kernels.fixed_point.mapping import magnitude, map_codes

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason=f"no native kernels: {native.unavailable()}")

SIGNED, UNSIGNED = torch.int8, torch.uint8


def codes(shape: tuple[int, ...], dtype: torch.dtype = SIGNED, seed: int = 0) -> Tensor:
    ends = torch.iinfo(dtype)
    return torch.randint(ends.min, ends.max + 1, shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def product(terms: list[tuple[Tensor, Tensor, int]], bias: Tensor | None = None, packed: bool = False) -> Tensor:
    """Of codes a [M, K], b [N, K] and an exponent each; ``packed``: with b packed beforehand, in whatever form."""
    a, b, exponents = (list(part) for part in zip(*terms, strict=True))
    rest: list[Tensor] = []
    if packed:
        weights = [torch.ops.qexp.int8_pack(one) for one in b]
        b, rest = [one[0] for one in weights], [tensor for one in weights for tensor in one[1:]]
    y: Tensor = torch.ops.qexp.fixed_point_product(a[0], b[0], exponents[0], a[1:], b[1:], exponents[1:], bias, rest)
    return y


def exact(terms: list[tuple[Tensor, Tensor, int]], bias: Tensor | None = None) -> Tensor:
    """Largest step first, as the operator adds."""
    ordered = sorted(terms, key=lambda term: -term[2])
    total = sum(((a.double() @ b.double().t()) * 2.0**e for a, b, e in ordered[1:]), start=exact_one(*ordered[0]))
    return total.float() if bias is None else total.float() + bias


def exact_one(a: Tensor, b: Tensor, exponent: int) -> Tensor:
    return (a.double() @ b.double().t()) * 2.0**exponent


@pytest.mark.parametrize("dtype", [SIGNED, UNSIGNED])
def test_every_tail_and_every_layout(dtype: torch.dtype) -> None:
    """Factors as rows, as columns (transposed in memory), and with gaps between their elements."""
    layouts = (lambda t: t, lambda t: t.t().contiguous().t(), lambda t: t.repeat_interleave(2, 1)[:, ::2])
    for m, n, k in itertools.product((1, 5, 16, 33), (1, 15, 16, 50), (1, 3, 16, 37)):
        a, b = codes((m, k), dtype), codes((n, k), seed=1)
        want = exact([(a, b, -5)])
        for of_a, of_b in itertools.product(layouts, layouts):
            assert torch.equal(product([(of_a(a), of_b(b), -5)]), want), (m, n, k)
        assert torch.equal(product([(a, b, -5)], packed=True), want)


@pytest.mark.parametrize(
    "exponents",
    [(0, 0), (3, 0), (0, 3), (-2, 8, 0), (8, 0, 8, 0), (20, 0), (0, 40), (30, 0, 29, 1), (-126, -126), (-126, -100)],
)
@pytest.mark.parametrize("packed", [False, True])
def test_sums_of_products(exponents: tuple[int, ...], packed: bool) -> None:
    """On one int32, or in double where its range does not do; all of these are exact in double."""
    depths = (40, 7, 16, 1)
    pairs = zip(exponents, depths, strict=False)
    terms = [
        (codes((9, k), UNSIGNED if i == 2 else SIGNED, i), codes((21, k), seed=9 + i), e)
        for i, (e, k) in enumerate(pairs)
    ]
    bias = normal(21)
    assert torch.equal(product(terms, packed=packed), exact(terms))
    assert torch.equal(product(terms, bias, packed), exact(terms, bias))


def test_sums_at_the_ends_of_int32() -> None:
    """Just within its range on the finer step, and just beyond."""
    a, b = torch.full((2, 300), -128, dtype=SIGNED), torch.full((3, 300), -128, dtype=SIGNED)
    for shift in range(6, 12):
        terms = [
            (a, b, shift),
            (a, b, 0),
            (torch.full((2, 9), 127, dtype=SIGNED), torch.full((3, 9), 127, dtype=SIGNED), 0),
        ]
        assert torch.equal(product(terms), exact(terms))


def test_one_first_factor_for_several_products() -> None:
    a, other = codes((40, 30)), codes((40, 30), seed=7)
    terms = [(a.t(), codes((5, 40), seed=i), 8 * i) for i in range(3)] + [(other.t(), codes((5, 40)), 1)]
    assert torch.equal(product(terms), exact(terms))
    assert torch.equal(
        product([(a[:20], codes((5, 30)), 0), (a[20:], codes((5, 30)), 0)]),
        exact([(a[:20], codes((5, 30)), 0), (a[20:], codes((5, 30)), 0)]),
    )


@pytest.mark.parametrize("exponent", [-200, -150, -149, -127, -126, 0, 96, 127, 128])
def test_results_at_the_edges_of_float32(exponent: int) -> None:
    terms = [(codes((3, 20)), codes((4, 20), seed=1), exponent)]
    assert torch.equal(product(terms), exact(terms))
    sums = (terms[0][0].long() @ terms[0][1].long().t()).int()
    assert torch.equal(torch.ops.qexp.fixed_point_sum([sums], [exponent], None), exact(terms))


def test_sums_that_were_multiplied_elsewhere() -> None:
    generator = torch.Generator().manual_seed(0)
    sums = [torch.randint(-(2**31), 2**31, (7, 33), dtype=torch.int32, generator=generator) for _ in range(3)]
    for exponents in ((0, 0, 0), (8, 0, -3), (-126, -120, -110)):
        want = sum(s.double() * 2.0**e for s, e in zip(sums, exponents, strict=True)).float()
        bias = normal(33)
        assert torch.equal(torch.ops.qexp.fixed_point_sum(sums, exponents, None), want)
        assert torch.equal(
            torch.ops.qexp.fixed_point_sum([s.t().contiguous().t() for s in sums], exponents, bias), want + bias
        )
    assert torch.ops.qexp.fixed_point_sum([sums[0][:0]], [0], None).shape == (0, 33)


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0, 0)])
def test_empty(shape: tuple[int, int, int]) -> None:
    m, n, k = shape
    terms = [(codes((m, k)), codes((n, k)), 0), (codes((m, k)), codes((n, k)), 60)]
    for some in (terms[:1], terms):
        y = product(some, torch.ones(n))
        assert y.shape == (m, n) and torch.equal(y, torch.ones(m, n))


def test_threads_change_nothing() -> None:
    terms = [(codes((130, 256)), codes((200, 256), seed=1), 3), (codes((130, 9), UNSIGNED), codes((200, 9)), 0)]
    x, before = normal(301, 1001), torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(
                (
                    product(terms),
                    map_codes(x, -5, 8, "stochastic", 3),
                    torch.ops.qexp.fixed_point_column_sums(codes((999, 70))),
                )
            )
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(*pair) for other in results[1:] for pair in zip(results[0], other, strict=True))


def test_the_largest_magnitude() -> None:
    for x in (
        normal(1),
        normal(17, 33),
        normal(33, 40).t(),
        -normal(200_000).abs(),
        torch.tensor([-0.0, 1e-45, -1e-40]),
    ):
        assert magnitude(x) == float(x.abs().max())
    assert torch.ops.qexp.fixed_point_magnitude(torch.empty(0)) == 0.0
    for place, value in itertools.product((0, 9, 99_999), (math.nan, math.inf, -math.inf)):
        x = normal(100_000)
        x[place] = value
        x[5] = -math.inf
        assert math.isnan(magnitude(x)) if math.isnan(value) else magnitude(x) == math.inf


def test_zeroed_columns_have_no_codes() -> None:
    x, columns = normal(9, 31), torch.tensor([0, 7, 30])
    for bits in (8, 12):
        for rounding in ("nearest", "stochastic"):
            found = map_codes(x, -4, bits, rounding, 3, zeroed=columns)  # type: ignore[arg-type]
            assert torch.equal(found, map_codes(x, -4, bits, rounding, 3).index_fill(1, columns, 0))  # type: ignore[arg-type]


def test_wrong_operands_are_named() -> None:
    a, b = codes((2, 8)), codes((4, 8))
    with pytest.raises(ValueError, match=r"8-bit codes \[M, 8\]"):
        product([(codes((2, 9)), b, 0)])
    with pytest.raises(ValueError, match=r"8-bit codes \[M, 8\]"):
        product([(torch.zeros(2, 8), b, 0)])
    with pytest.raises(ValueError, match=r"int8 codes \[N, K\]"):
        product([(a, b.view(UNSIGNED), 0)])
    with pytest.raises(ValueError, match="summands differ in shape"):
        product([(a, b, 0), (a, b[:3], 0)])
    with pytest.raises(ValueError, match="4 output channels need 4 biases, not 3"):
        product([(a, b, 0)], torch.ones(3))
    with pytest.raises(TypeError, match="float32"):
        product([(a, b, 0)], torch.ones(4, dtype=torch.float64))
    with pytest.raises(ValueError, match="each product has two factors"):
        torch.ops.qexp.fixed_point_product(a, b, 0, [a], [], [], None, [])
    with pytest.raises(TypeError, match="takes float32"):
        torch.ops.qexp.fixed_point_map(torch.ones(2).double(), 0, 127, math.inf, None, None)
    with pytest.raises(TypeError, match="takes codes, not Float"):
        torch.ops.qexp.fixed_point_column_sums(torch.ones(2, 2))
    with pytest.raises(TypeError, match="int32"):
        torch.ops.qexp.fixed_point_sum([a], [0], None)
