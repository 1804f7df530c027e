"""What layers in dynamic fixed point really multiplied, forward and backward, from what torch dispatched."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import nn

from qexp.kernels.int8 import select
from qexp.models.certificate import IntegerError, Recorder, Seen
from qexp.models.fixed_point import BACKWARD, FORWARD, FixedPointLinear, fixed_point_layers

PASSES = {"forward": FORWARD, "backward": BACKWARD}
WIDE = "an int16 factor: the reference for wide products, emulated in float64"
OUTSIDE = "no linear layer: attention's products and what follows from them, in floating point by design"


def certificate(network: nn.Module, recorder: Recorder, *, backward: bool, wide: bool) -> dict[str, Any]:
    """One entry a layer and pass with its integer products; what multiplied floats instead, and why.

    ``backward``: whether gradients were computed too. ``wide``: whether products of int16 factors are allowed, which
    are emulated.

    Raises ``IntegerError`` if a layer multiplied floats otherwise, or no integers in one of its passes.
    """
    layers = dict(fixed_point_layers(network))
    backend = select("auto", next(network.parameters()).device.type)
    passes = ("forward", "backward") if backward else ("forward",)
    products, emulated = [], []
    for name, layer in layers.items():
        for which in passes:
            if which == "backward" and not layer.weight.requires_grad and layer.qexp_backward not in recorder.seen:
                continue  # frozen, and so is all before it
            found, floats = _products(name, layer, which, recorder)
            if floats and not wide:
                raise IntegerError(
                    f"{name} is claimed in integers, but {_ops(floats)} multiplied floats in its {which}"
                )
            if not found:
                raise IntegerError(f"{name} is claimed in integers, but no integer product was seen in its {which}")
            products.append(_entry(name, which, found, backend.name))
            emulated += [_in_float(name, floats, WIDE)] if floats else []
    return {
        "backend": backend.name,
        "isa": backend.isa,
        "threads": torch.get_num_threads(),
        "products": products,
        "in_float": [*emulated, *_outside(network, layers, recorder)],
        "float_operations": recorder.float_operations(),
        "embeddings": [],
    }


def _products(
    name: str, layer: FixedPointLinear, which: str, recorder: Recorder
) -> tuple[Counter[Seen], Counter[Seen]]:
    """Integer products, and products of floats, of one pass; floats in the layer itself are none of its passes'."""
    seen = recorder.seen.get(getattr(layer, PASSES[which]), Counter())
    own = _float_products(recorder.seen.get(layer, Counter()))
    if own:
        raise IntegerError(f"{name} is claimed in integers, but {_ops(own)} multiplied floats beside its products")
    integer = Counter({one: calls for one, calls in seen.items() if one.is_integer_product})
    return integer, _float_products(seen)


def _float_products(seen: Counter[Seen]) -> Counter[Seen]:
    return Counter({one: calls for one, calls in seen.items() if one.is_float_product})


def _entry(name: str, which: str, found: Counter[Seen], backend: str) -> dict[str, Any]:
    types = {str(kind).removeprefix("torch.") for one in found for kind in one.operands if kind is not None}
    return {
        "name": name,
        "kind": which,
        "op": _ops(found),
        "input": "/".join(sorted(types)),
        "weight": "int8",
        "accumulator": "int32",
        "backend": backend,
        "calls": sum(found.values()),
    }


def _outside(network: nn.Module, layers: dict[str, FixedPointLinear], recorder: Recorder) -> list[dict[str, Any]]:
    """Products of floats anywhere else: in other modules' forward, or in the backward pass outside of every module."""
    names = {module: name for name, module in network.named_modules()}
    inside = {part for layer in layers.values() for part in layer.modules()}
    found = []
    for module, seen in recorder.seen.items():
        floats = _float_products(seen)
        if floats and module not in inside:
            name = "backward pass" if module is None else names.get(module) or type(module).__name__
            found.append(_in_float(name, floats, OUTSIDE))
    return found


def _in_float(name: str, floats: Counter[Seen], why: str) -> dict[str, Any]:
    return {"name": name, "op": _ops(floats), "why": why, "calls": sum(floats.values())}


def _ops(found: Counter[Seen]) -> str:
    return ", ".join(sorted({one.op for one in found}))
