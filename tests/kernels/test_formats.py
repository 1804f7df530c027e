"""Laws of number formats (paper notes of unit scaling, 1.7, 3.6; section 6, laws 9 and 10)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from qexp.kernels.formats import (
    BF16,
    E4M3FN,
    E4M3FNUZ,
    E5M2,
    E5M2FNUZ,
    FORMATS,
    FP16,
    Format,
    Specials,
    cast,
    cast_backward,
    cast_forward,
    overflow_fraction,
    signal_to_noise,
    underflow_fraction,
)

DTYPES = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "e4m3fnuz": torch.float8_e4m3fnuz,
    "e5m2fnuz": torch.float8_e5m2fnuz,
    "e4m3fn": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
}
every_format = pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS.keys())
E2M1 = Format("e2m1", 2, 1, "fnuz")
TINY_FLOAT32 = float(torch.finfo(torch.float32).tiny)


def torch_numbers(format: Format) -> Tensor:
    """Every finite number of the format by torch's reading of all its codes: sorted, distinct, float32."""
    codes = torch.arange(2**format.bits)
    codes = codes.to(torch.int16 if format.bits == 16 else torch.uint8)
    values = codes.view(DTYPES[format.name]).to(torch.float32)
    return values[values.isfinite()].unique()


def as_torch(x: Tensor, format: Format) -> Tensor:
    return x.to(DTYPES[format.name]).to(torch.float32)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal with NaN equal to NaN and +0 unlike -0."""
    return torch.equal(a.nan_to_num(nan=1e38), b.nan_to_num(nan=1e38)) and torch.equal(
        a.signbit() & ~a.isnan(), b.signbit() & ~b.isnan()
    )


def awkward(format: Format) -> Tensor:
    """All numbers, all midpoints and the float32 on either side of both, random bit patterns in range, and zeros."""
    numbers = torch_numbers(format)
    points = torch.cat([numbers, (numbers[1:] + numbers[:-1]) / 2])
    up, down = (torch.nextafter(points, torch.full_like(points, end)) for end in (torch.inf, -torch.inf))
    patterns = torch.randint(-(2**31), 2**31, (200_000,), generator=torch.Generator().manual_seed(0))
    noise = patterns.to(torch.int32).view(torch.float32)
    all_of_them = torch.cat([points, up, down, noise, torch.tensor([0.0, -0.0, 1e-40, -1e-40])])
    return all_of_them[all_of_them.abs() <= format.largest]


@contextmanager
def flushing_subnormals() -> Iterator[None]:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormals")
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@every_format
def test_properties_are_those_of_torchs_codes(format: Format) -> None:
    numbers = torch_numbers(format)
    info = torch.finfo(DTYPES[format.name])
    assert format.largest == numbers.max().item() == info.max
    assert format.smallest_normal == info.smallest_normal
    assert format.smallest_subnormal == numbers[numbers > 0].min().item()
    assert format.bits == info.bits


def test_the_papers_limits() -> None:
    assert (E4M3FNUZ.largest, E4M3FNUZ.smallest_normal, E4M3FNUZ.smallest_subnormal) == (240.0, 2**-7, 2**-10)
    assert (E5M2FNUZ.largest, E5M2FNUZ.smallest_normal, E5M2FNUZ.smallest_subnormal) == (57344.0, 2**-15, 2**-17)
    assert (E4M3FN.largest, E4M3FN.smallest_normal, E5M2.largest) == (448.0, 2**-6, 57344.0)
    assert (FP16.largest, FP16.smallest_normal, FP16.mantissa_bits) == (65504.0, 2**-14, 10)


@every_format
def test_is_torchs_conversion_bit_for_bit_within_range(format: Format) -> None:
    x = awkward(format)
    assert len(x) > 5_000
    assert same_bits(cast(x, format), as_torch(x, format))


@every_format
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_numbers_of_the_format_stay(format: Format, rounding: str) -> None:
    numbers = torch_numbers(format)
    assert torch.equal(cast(numbers, format, rounding), numbers)


def test_fewest_bits_have_the_authors_value_set_with_ties_to_even() -> None:
    values = cast(torch.linspace(-4, 4, 4001), E2M1).unique()
    assert values.abs().unique().tolist() == [0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0]
    ties = torch.tensor([0.125, 0.375, 0.625, 0.875, 1.25, 1.75, 2.5, 9.0])
    assert cast(ties, E2M1).tolist() == [0.0, 0.5, 0.5, 1.0, 1.0, 2.0, 2.0, 3.0]
    assert cast(-ties, E2M1).tolist() == [0.0, -0.5, -0.5, -1.0, -1.0, -2.0, -2.0, -3.0]


@every_format
def test_beyond_the_largest(format: Format) -> None:
    """Saturated, to the largest; otherwise what lies nearer to the next number is infinity or NaN."""
    spacing = format.largest - torch_numbers(format)[-2].item()
    x = torch.tensor([format.largest + 0.49 * spacing, format.largest + 0.51 * spacing, torch.inf])
    x = torch.cat([x, -x]).clamp(-3.4e38, 3.4e38) if format is BF16 else torch.cat([x, -x])
    sign = x.sign()
    assert torch.equal(cast(x, replace(format, saturate=True)), sign * format.largest)
    result = cast(x, replace(format, saturate=False))
    beyond = torch.full((3,), torch.inf if format.specials == "ieee" else torch.nan)
    beyond[0] = format.largest
    assert same_bits(result.abs(), torch.cat([beyond, beyond]))
    assert torch.equal(result.sign()[~result.isnan()], sign[~result.isnan()])
    if format.specials != "fn":  # torch 2.13 saturates there, older versions give NaN
        assert torch.equal(result.isfinite(), as_torch(x, format).isfinite())


@every_format
@pytest.mark.parametrize("saturate", [True, False])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_nan_stays_nan(format: Format, saturate: bool, rounding: str) -> None:
    x = torch.tensor([torch.nan, 1.0])
    assert cast(x, replace(format, saturate=saturate), rounding).isnan().tolist() == [True, False]


@pytest.mark.parametrize("format", [E4M3FNUZ, E5M2FNUZ, E4M3FN, E5M2, FP16], ids=lambda f: f.name)
def test_flushed_subnormals_change_nothing(format: Format) -> None:
    """The authors' code makes small numbers float32 subnormals on the way, so a flushing processor breaks it."""
    x = awkward(format)
    x = x[x.abs() >= TINY_FLOAT32]
    generator = torch.Generator()
    expected = cast(x, format), cast(x, format, "stochastic", generator.manual_seed(0))
    with flushing_subnormals():
        result = cast(x, format), cast(x, format, "stochastic", generator.manual_seed(0))
    assert torch.equal(result[0], expected[0]) and torch.equal(result[1], expected[1])


@pytest.mark.parametrize(
    "format, x, below, above, probability",
    [
        (E2M1, -1.35, -1.5, -1.0, 0.3),
        (E4M3FNUZ, 1.1, 1.0, 1.125, 0.8),
        (E4M3FN, -447.0, -448.0, -416.0, 1 / 32),
        (E5M2FNUZ, 2.0**-17 * 0.3, 0.0, 2.0**-17, 0.3),
        (FP16, 1 + 0.25 * 2**-10, 1.0, 1 + 2.0**-10, 0.25),
        (BF16, 3 * 2.0**-135, 0.0, 2.0**-133, 0.75),
        (E5M2, 0.99, 0.875, 1.0, 0.92),
    ],
    ids=lambda v: v.name if isinstance(v, Format) else None,
)
def test_stochastic_rounding_is_unbiased(
    format: Format, x: float, below: float, above: float, probability: float
) -> None:
    """The neighbour above with probability (x - below) / (above - below), within three binomial standard deviations."""
    n = 100_000
    result = cast(torch.full((n,), x), format, "stochastic", torch.Generator().manual_seed(1))
    assert set(result.unique().tolist()) == {below, above}
    share = (result == above).double().mean().item()
    assert abs(share - probability) < 3 * (probability * (1 - probability) / n) ** 0.5


def test_stochastic_rounding_repeats_with_its_generator_only() -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    a, b = (cast(x, E4M3FN, "stochastic", torch.Generator().manual_seed(seed)) for seed in (1, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, cast(x, E4M3FN, "stochastic", torch.Generator().manual_seed(2)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_keep_theirs(dtype: torch.dtype) -> None:
    x = torch.randn(500, generator=torch.Generator().manual_seed(0)).to(dtype)
    result = cast(x, E4M3FN)
    assert result.dtype == dtype
    assert torch.equal(result.to(torch.float32), as_torch(x, E4M3FN))


def test_input_is_left_alone_and_may_be_strided_empty_or_a_single_number() -> None:
    x = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    for format in (E4M3FNUZ, replace(E5M2, saturate=False), FP16):
        for rounding in ("nearest", "stochastic"):
            view = cast(x.transpose(0, 2)[::2], format, rounding, torch.Generator().manual_seed(0))
            assert view.shape == (4, 6, 4) and torch.equal(cast(view, format), view)
            assert cast(x[:0], format, rounding).shape == (0, 6, 8)
            assert cast(x[0, 0, 0], format, rounding).shape == ()
    assert torch.equal(x, before)


def test_straight_through_forms() -> None:
    x = torch.randn(100, generator=torch.Generator().manual_seed(0), requires_grad=True)
    incoming = torch.randn(100, generator=torch.Generator().manual_seed(1))
    forward = cast_forward(x, E4M3FNUZ)
    assert torch.equal(forward, cast(x, E4M3FNUZ))
    (gradient,) = torch.autograd.grad(forward, x, incoming)
    assert torch.equal(gradient, incoming)
    backward = cast_backward(x, E5M2FNUZ)
    assert torch.equal(backward, x)
    (gradient,) = torch.autograd.grad(backward, x, incoming)
    assert torch.equal(gradient, cast(incoming, E5M2FNUZ)) and not torch.equal(gradient, incoming)
    seeded = torch.Generator().manual_seed(3)
    (gradient,) = torch.autograd.grad(cast_backward(x, E5M2, "stochastic", seeded), x, incoming)
    assert torch.equal(gradient, cast(incoming, E5M2, "stochastic", torch.Generator().manual_seed(3)))


def test_fractions_that_are_lost() -> None:
    half = 2.0**-11
    x = torch.tensor([0.0, half, -half, half * 1.01, 1.0, 247.0, 249.0, -1e9, torch.inf, torch.nan])
    assert underflow_fraction(x, E4M3FNUZ).item() == pytest.approx(2 / 8)
    assert overflow_fraction(x, E4M3FNUZ).item() == pytest.approx(4 / 10)
    nothing = torch.zeros(3)
    assert underflow_fraction(nothing, E4M3FN).item() == overflow_fraction(nothing, E4M3FN).item() == 0.0
    assert underflow_fraction(nothing[:0], E4M3FN).item() == overflow_fraction(nothing[:0], E4M3FN).item() == 0.0
    by_cast = (cast(awkward(E5M2), E5M2) == 0).sum() - (awkward(E5M2) == 0).sum()
    assert underflow_fraction(awkward(E5M2), E5M2) == by_cast / (awkward(E5M2) != 0).sum()


SNR = {
    (FP16, 0): 73.6,
    (E4M3FNUZ, 0): 31.0,
    (E5M2FNUZ, 0): 24.5,
    (E4M3FNUZ, -9): 16.8,
    (E4M3FNUZ, -12): 0.6,
    (E4M3FNUZ, 9): 3.5,
}
"""Decibels of casting N(0, 4^k) by the authors' rounding, by (format, k)."""


def without_carry(x: Tensor, format: Format) -> Tensor:
    """The rounding of the authors' figure: a number never rounds up to the next power of two, but to the one before."""
    magnitude = x.abs().double()
    low = torch.exp2(magnitude.log2().floor()).clamp(format.smallest_normal)
    low = low.clamp(max=2.0 ** int(torch.tensor(format.largest).log2()))
    normal = (low <= magnitude).double()
    steps = 2**format.mantissa_bits
    fraction = (steps * (magnitude / low - normal)).round().clamp(0, steps - 1) / steps
    return x.sign() * low * (normal + fraction)


@pytest.mark.parametrize("format, power", SNR, ids=lambda v: v.name if isinstance(v, Format) else str(v))
def test_signal_to_noise(format: Format, power: int) -> None:
    """The published curve to 0.3 dB by its own rounding; true rounding to nearest is as good or up to 1.1 dB better."""
    x = torch.randn(2**18, generator=torch.Generator().manual_seed(0)) * 2.0**power
    theirs = 10 * torch.log10(x.double().square().sum() / (without_carry(x, format) - x).square().sum())
    ours = signal_to_noise(x, replace(format, saturate=True))
    assert theirs.item() == pytest.approx(SNR[format, power], abs=0.3)
    assert theirs - 0.01 <= ours <= theirs + 1.1


def test_signal_to_noise_of_exact_and_stochastic_casts() -> None:
    x = torch.randn(2**16, generator=torch.Generator().manual_seed(0))
    assert signal_to_noise(cast(x, E4M3FN), E4M3FN).item() == torch.inf
    loss = signal_to_noise(x, FP16) - signal_to_noise(x, FP16, "stochastic", torch.Generator().manual_seed(1))
    # In squared spacings: a uniform error has 1/12, a random neighbour u (1 - u), on average 1/6. Twice is 3.01 dB.
    assert loss.item() == pytest.approx(3.01, abs=0.1)


@pytest.mark.parametrize("exponent, mantissa, specials", [(1, 2, "fn"), (4, 0, "fn"), (4, 23, "fn")])
def test_impossible_formats_are_refused(exponent: int, mantissa: int, specials: Specials) -> None:
    with pytest.raises(ValueError, match="exponent and"):
        Format("bad", exponent, mantissa, specials)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="float32 does not hold"):
        Format("wide", 8, 3, "fn")
    with pytest.raises(ValueError, match="unknown specials 'ieee754'"):
        Format("bad", 4, 3, "ieee754")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown rounding 'down' to e4m3fn: nearest or stochastic"):
        cast(torch.ones(1), E4M3FN, "down")  # type: ignore[arg-type]
