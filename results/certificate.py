"""What a record's certificate and gap say, in words: for the terminal, and for the notes under a table."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

Certificate = Mapping[str, Any]
_LAYER = re.compile(r"\b(layers|layer|h)\.\d+\.")
"""A layer's number in the name of a site, or of a module of the families."""


def products(certificate: Certificate) -> str:
    """``48 of 50 products in int8: 36 linear, 12 attention``: of all that a forward pass multiplies."""
    kinds = {product["name"]: product["kind"] for product in certificate["products"]}
    attention = sum(kind.startswith("attention") for kind in kinds.values())
    passes = ", forward and backward" if "backward" in kinds.values() else ""
    total = len({*kinds, *(product["name"] for product in certificate["in_float"])})
    return f"{len(kinds)} of {total} products in int8: {len(kinds) - attention} linear, {attention} attention{passes}"


def formats(certificate: Certificate) -> str:
    """``20 of 25 products executed: operands e4m3fn, gradients e5m2``: what a narrow training format did."""
    total, executed = len(certificate["products"]), sum(one["executed"] for one in certificate["products"])
    how = f"{executed} of {total} products executed" if executed else f"{total} products, simulated"
    return f"{how}: {', '.join(f'{what} {name}' for what, name in certificate['formats'].items())}"


def back_end(certificate: Certificate) -> str:
    """``back end vnni (avx512_vnni), native for 12``: instruction set where the name does not say it, exceptions."""
    name, isa = certificate["backend"], certificate["isa"]
    others = Counter(product["backend"] for product in certificate["products"])
    del others[name]
    parts = [f"back end {name}" + (f" ({isa})" if isa and isa != name else "")]
    return ", ".join([*parts, *(f"{other} for {count}" for other, count in others.items())])


def threads(certificate: Certificate) -> str:
    count = certificate["threads"]
    return f"{count} thread" + ("s" if count != 1 else "")


def in_float(certificate: Certificate) -> str:
    """``pooler, classifier (the head has no sites)``, one list a reason; empty where nothing stayed."""
    reasons: dict[str, dict[str, None]] = defaultdict(dict)
    for product in certificate["in_float"]:
        reasons[_LAYER.sub("", product["why"])][product["name"]] = None
    return "; ".join(f"{by_role(names)} ({why})" for why, names in reasons.items())


def by_role(names: Iterable[str]) -> str:
    """``attention_output × 6, classifier``: the same place of several layers once, with its number."""
    counts = Counter(_LAYER.sub("", name) for name in names)
    return ", ".join(role if count == 1 else f"{role} × {count}" for role, count in counts.items())


def weights(certificate: Certificate) -> str:
    """``10.6 MB instead of 42.0 MB (0.252 ×)``: the weights that became integers, in memory; empty where none did."""
    found = certificate.get("weights")
    if found is None:
        return ""
    return (
        f"{megabytes(found['integer_bytes'])} instead of {megabytes(found['converted_float32_bytes'])} "
        f"({found['ratio']:.3f} ×)"
    )


def megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"


def sentence(certificate: Certificate) -> str:
    """The certificate in one line, without what holds for one run only (threads)."""
    parts = [products(certificate), back_end(certificate)]
    stayed = in_float(certificate)
    return "; ".join([*parts, f"in float: {stayed}"] if stayed else parts)


def agreement(gap: Mapping[str, Any]) -> str:
    """``99.97 % of 872 largest logits the same``; empty for a regression, which has one."""
    share = gap["argmax_agreement"]
    return "" if share is None else f"{percent(share)} of {gap['n']:,} largest logits the same"


def control(gap: Mapping[str, Any]) -> str:
    """How far the simulation in float64 lies from itself in float32: what rounding alone does to this network."""
    found = gap["control"]
    told = [agreement(found), f"logits at most {found['logits_max_abs']:.3g} apart"]
    return f"simulated in float64 against float32: {' · '.join(filter(None, told))}"


def percent(share: float) -> str:
    """Two decimals, rounded down: 100 % only where nothing differs."""
    return "100 %" if share == 1 else f"{math.floor(share * 1e4 + 1e-6) / 100:.2f} %"
