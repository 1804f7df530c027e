"""What methods measured of themselves, and scales in training, on the terminal, in a few lines."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from rich.console import Console

from qexp.results.scale_curves import in_words
from qexp.results.schema import Record

LARGEST = 6
"""Tensors that have a line of their own."""


def print_analysis(console: Console, record: Record) -> None:
    """At most eight lines a method, for those whose analysis is of a kind that says something in few lines."""
    printers = {"weight_kurtosis": _print_kurtosis, "scales": _print_scales, "tensor_scales": _print_deviations}
    for method, found in record.analysis.items():
        if (print_one := printers.get(found.get("kind", ""))) is not None:
            print_one(console, method, found)
    if scales := record.training.get("scales"):
        console.print("[bold]standard deviations in training[/]", highlight=False)
        for kind, words in in_words(scales):
            console.print(f"  {kind}: {words}", markup=False, highlight=False, soft_wrap=True)


def _print_scales(console: Console, method: str, found: Mapping[str, Any]) -> None:
    """How far scales are spread, and what the first phase left of the blocks' errors."""
    scales = found["scales"].values()
    ends = f"{min(s['min'] for s in scales):.3g} to {max(s['max'] for s in scales):.3g}" if scales else "none"
    channels = sum(scale["channels"] for scale in scales)
    heading = f"[bold]{method}: scales[/] · {channels:,} in {len(scales)} places, {ends}"
    console.print(heading, highlight=False, soft_wrap=True)
    left = [error["after"] / error["before"] for error in found.get("block_errors", ()) if error["before"]]
    if left:
        shares = f"median {median(left):.0%}, {min(left):.0%} to {max(left):.0%}"
        console.print(f"  error left of each block's by the first phase: {shares}", highlight=False)


def _print_deviations(console: Console, method: str, found: Mapping[str, Any]) -> None:
    """Between which standard deviations tensors lie before and after training, and how many outside of the band."""
    low, high = found["band"]
    console.print(f"[bold]{method}: standard deviations[/]", highlight=False)
    for when, label in (("initial", "all tensors at initialisation"), ("trained", "weights and activations trained")):
        scales = [std for kinds in found[when].values() for std in kinds.values()]
        inside = sum(low <= std <= high for std in scales)
        ends = f"{min(scales):.3g} to {max(scales):.3g}, {inside} of {len(scales)} within {low:g} to {high:g}"
        console.print(f"  {label}: {ends}", markup=False, highlight=False, soft_wrap=True)


def _print_kurtosis(console: Console, method: str, found: Mapping[str, Any]) -> None:
    """How many tensors were selected, and the largest kurtoses before and after."""
    tensors = {name: tensor for name, tensor in found["tensors"].items() if tensor["before"] is not None}
    selected = f"{sum(tensor['selected'] for tensor in tensors.values())} of {len(tensors)} tensors selected"
    heading = f"[bold]{method}: kurtosis of weights[/] · target {found['target']:g}, {selected}"
    console.print(heading, highlight=False, soft_wrap=True)
    largest = sorted(tensors, key=lambda name: -float(tensors[name]["before"]))[:LARGEST]
    for name in largest:
        tensor = tensors[name]
        after = "constant" if tensor["after"] is None else f"{tensor['after']:,.4g}"
        line = f"  {tensor['before']:>8,.4g} → {after:<8} {name}{'' if tensor['selected'] else ', left out'}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if len(tensors) > LARGEST:
        rest = [tensor for name, tensor in tensors.items() if name not in largest]
        ends = (f"{_mean(rest, end):,.4g}" for end in ("before", "after"))
        console.print(f"  mean of the other {len(rest)}: {' → '.join(ends)}", highlight=False)


def _mean(tensors: list[Mapping[str, Any]], end: str) -> float:
    known = [float(tensor[end]) for tensor in tensors if tensor[end] is not None]
    return sum(known) / len(known) if known else float("nan")
