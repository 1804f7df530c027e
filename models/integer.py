"""From a calibrated network that simulates integers to one that multiplies them.

Claimed are the linear layers and attention products whose operands all lie on grids of at most 8 bits with one scale
for the whole tensor (or, for weights, for each output channel), and quantized embedding tables, which are stored in
int8. Everything else stays as it is and is listed with the reason.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import nn

from qexp.conf.errors import UserError
from qexp.kernels.int8 import select
from qexp.models.attachment import quantizer_at
from qexp.models.integer_conversion import Claim, Conversion, InFloat
from qexp.models.integer_layers import IntegerEmbedding, IntegerLinear
from qexp.models.quantization import FLOAT_BITS
from qexp.models.sites import AdaptedModel
from qexp.models.unit_scaled.layers import refuse_unit_scaled


@dataclass(frozen=True)
class Memory:
    """Bytes of weights: the claimed ones as they were and as they are, with their scales, and all that stay float."""

    converted_float32_bytes: int
    integer_bytes: int
    still_float_bytes: int

    @property
    def ratio(self) -> float:
        """Integers to float32, of the claimed weights."""
        return self.integer_bytes / self.converted_float32_bytes if self.converted_float32_bytes else 0.0


@dataclass(frozen=True)
class IntegerModel:
    """A network that executes ``claimed`` in integers on ``backend``; ``bits`` is its setting, as ``w8a8``."""

    adapted: AdaptedModel
    claimed: tuple[Claim, ...]
    in_float: tuple[InFloat, ...]
    backend: str
    isa: str
    bits: str
    memory: Memory

    @property
    def module(self) -> nn.Module:
        return self.adapted.module


def integer_model(quantized: nn.Module, model: AdaptedModel, backend: str = "auto") -> IntegerModel:
    """An integer copy, in evaluation mode, of what ``quantize_model`` or a method's ``convert`` made of ``model``.

    ``quantized`` stays as it is. Raises ``UserError`` for a back end that cannot be used here, for a weight that does
    not lie on its grid, and if no product can be executed in integers.
    """
    network = copy.deepcopy(quantized).eval()
    try:
        chosen = select(backend, next(network.parameters()).device.type)
    except ValueError as error:
        raise UserError(f"kernels.int8={backend}: {error}") from error
    adapted = replace(model, module=network)
    refuse_unit_scaled(network, "an integer product")
    conversion = Conversion(adapted, chosen.name)
    conversion.convert()
    claimed, in_float = tuple(conversion.claimed), tuple(conversion.in_float)
    if all(claim.kind == "embedding" for claim in claimed):
        layer = next(layer for layer in in_float if layer.name.startswith("layers."))
        raise UserError(f"no product can be executed in integers; {layer.name}, for one: {layer.why}")
    memory = _memory(network, claimed)
    return IntegerModel(adapted, claimed, in_float, chosen.name, chosen.isa, _bits(adapted), memory)


def _bits(model: AdaptedModel) -> str:
    """The setting, from the quantizers that are there: ``w8a8``, or ``w4/8a8`` where widths are mixed."""
    text = ""
    for letter, sites in (("w", model.sites.weights()), ("a", model.sites.activations())):
        widths = {q.bits for site in sites if (q := quantizer_at(model.module, site)) is not None}
        text += letter + ("/".join(map(str, sorted(widths))) or str(FLOAT_BITS))
    return text


def _memory(network: nn.Module, claimed: Iterable[Claim]) -> Memory:
    converted = integers = 0
    for claim in claimed:
        layer = network.get_submodule(claim.module)
        if isinstance(layer, IntegerLinear | IntegerEmbedding):
            grid = layer.weight_quantizer.qparams
            integers += layer.stored_bytes + grid.scale.nbytes + grid.zero_point.nbytes
            converted += 4 * layer.weight_count
    floats = sum(weight.nbytes for weight in network.parameters() if weight.is_floating_point())
    return Memory(converted, integers, floats)
