"""A trained network evaluated with the INT8 layers of bitsandbytes."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any, ClassVar

import torch
from torch import nn

from qexp.conf.errors import UserError
from qexp.methods.base import BaseMethod, Execution
from qexp.methods.llm_int8.layers import convert, multiplies_integers
from qexp.methods.llm_int8.settings import Settings
from qexp.models.adapters._common import base_of
from qexp.models.certificate import Recorder, Seen
from qexp.models.sites import AdaptedModel

PRODUCT = "bitsandbytes::int8_mixed_scaled_mm"
AS_FLOATS = "bitsandbytes multiplies int8 values as floats on this device"


class LLMInt8(BaseMethod):
    """``Linear8bitLt``: vector-wise INT8, outlier columns in 16-bit floating point (arXiv 2208.07339)."""

    name = "llm_int8"
    paper: ClassVar[str | None] = "2208.07339"
    settings: Settings

    def execute(self, model: AdaptedModel, backend: str) -> Execution | None:
        network = copy.deepcopy(model.module).eval()
        base, prefix = base_of(network)
        names = convert(base, self.settings.threshold, self.settings.exclude)
        if not names:
            raise UserError("method=llm_int8 found no linear layer to convert")
        names = tuple(f"{prefix}{name}" for name in names)
        return Execution(network, lambda seen: certificate(network, names, seen))


def certificate(network: nn.Module, names: tuple[str, ...], recorder: Recorder) -> dict[str, Any]:
    """The layers as products of integers where bitsandbytes multiplies such on this device, else as ones in float."""
    device = next(network.parameters()).device
    is_integer = multiplies_integers(device)
    layers = [_entry(network, name, recorder, is_integer) for name in names]
    return {
        "backend": "bitsandbytes",
        "isa": device.type,
        "threads": torch.get_num_threads(),
        "products": layers if is_integer else [],
        "in_float": [] if is_integer else layers,
        "float_operations": recorder.float_operations(),
        "embeddings": [],
    }


def _entry(network: nn.Module, name: str, recorder: Recorder, is_integer: bool) -> dict[str, Any]:
    seen: Counter[Seen] = recorder.seen.get(network.get_submodule(f"{name}.layer"), Counter())
    calls = sum(count for one, count in seen.items() if one.op == PRODUCT)
    entry: dict[str, Any] = {"name": name, "op": PRODUCT, "calls": calls}
    if not is_integer:
        return {**entry, "why": AS_FLOATS}
    kinds = {"kind": "linear", "input": "int8", "weight": "int8", "accumulator": "int32", "backend": "bitsandbytes"}
    return {**entry, **kinds}


METHOD = LLMInt8
