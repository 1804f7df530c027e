"""Quantizers in a network that is trained: put at its sites, started from calibrated ranges, and taken away again.

A weight keeps its parameter and its name, so that checkpoints, tied heads and optimizers see the latent float weight;
the module's own forward pass is given the quantized one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from qexp.conf.errors import UserError
from qexp.conf.schema import QuantConfig, QuantizerConfig
from qexp.kernels.quantize import QParams
from qexp.kernels.quantizers import Quantizer
from qexp.kernels.trained_quantizers import TrainedQuantizer
from qexp.models.adapters._common import restore_class, swap_class
from qexp.models.attachment import quantize_by, quantizer_at, unhook
from qexp.models.quantization import FLOAT_BITS, choose_sites, parse_bits, weight_granularity
from qexp.models.sites import AdaptedModel, Site

WEIGHT, INPUT, OUTPUT = "trained_weight", "trained_input", "trained_output"
"""Names of the quantizers as submodules of the modules they serve."""
_NAMES = {"weight": WEIGHT, "input": INPUT, "output": OUTPUT}

Make = Callable[[Site, QuantizerConfig, int, tuple[int, ...], int | None], TrainedQuantizer]
"""Of a site: its settings, bits, the shape of its scale and the axis of its channels; see :func:`install`."""


class QuantizedWeight(nn.Module):
    """Mixin: the module's own forward pass, with its weight quantized."""

    trained_weight: TrainedQuantizer

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        weight = self._parameters["weight"]
        assert weight is not None
        self._parameters["weight"] = self.trained_weight(weight)
        try:
            return super().forward(*args, **kwargs)
        finally:
            self._parameters["weight"] = weight


def install(model: AdaptedModel, spec: QuantConfig, bits: str, make: Make) -> dict[str, TrainedQuantizer]:
    """Put a quantizer of ``make`` at every site that ``spec`` chooses and ``bits`` does not leave in float.

    None of them quantizes before it is started (:func:`start`). Raises ``UserError`` where activations are to have a
    range for every token or channel: those are no parameters of a network.
    """
    if spec.activations.granularity != "per_tensor":
        raise UserError(
            f"activations quantized {spec.activations.granularity} have no range to train: "
            "choose quant.activations.granularity=per_tensor"
        )
    weight_bits, activation_bits = parse_bits(bits)
    placed = {}
    for site in choose_sites(model.sites, spec):
        is_weight = site.kind == "weight"
        width, config = (weight_bits, spec.weights) if is_weight else (activation_bits, spec.activations)
        if width != FLOAT_BITS:
            shape, axis = _channels(model.module, site, config) if is_weight else ((), None)
            placed[site.name] = quantizer = make(site, config, width, shape, axis)
            _attach(model.module, site, quantizer)
    return placed


def start(model: AdaptedModel, calibrated: nn.Module) -> None:
    """Start every quantizer at the grid that stands at its site in ``calibrated``, a quantized copy of the network."""
    for site, quantizer in trained_quantizers(model):
        found = quantizer_at(calibrated, site)
        if not isinstance(found, Quantizer):
            raise ValueError(f"site {site.name} was not calibrated")
        quantizer.start(found.qparams)


def trained_quantizers(model: AdaptedModel) -> Iterator[tuple[Site, TrainedQuantizer]]:
    """Every site with a quantizer of :func:`install`, and the quantizer."""
    for site in model.sites:
        found = getattr(model.module.get_submodule(site.module), _NAMES[site.kind], None)
        if isinstance(found, TrainedQuantizer):
            yield site, found


def ranges(model: AdaptedModel) -> dict[str, QParams]:
    """Site name -> the grid that training left there."""
    return {site.name: quantizer.qparams for site, quantizer in trained_quantizers(model)}


@contextmanager
def floating(model: AdaptedModel) -> Iterator[None]:
    """The network without its quantizers, for the length of the block."""
    started = [quantizer for _, quantizer in trained_quantizers(model) if quantizer.started]
    for quantizer in started:
        quantizer.started = False
    try:
        yield
    finally:
        for quantizer in started:
            quantizer.started = True


def rest(model: AdaptedModel) -> None:
    """Have the network compute in floating point again. The quantizers stay, with what they learnt, and are saved."""
    for site, _ in trained_quantizers(model):
        target = model.module.get_submodule(site.module)
        if site.kind == "weight":
            restore_class(target, QuantizedWeight)
        else:
            unhook(target, _NAMES[site.kind], site)


def strip(model: AdaptedModel) -> None:
    """Remove the quantizers from a network at :func:`rest`."""
    for site, _ in list(trained_quantizers(model)):
        delattr(model.module.get_submodule(site.module), _NAMES[site.kind])


def _channels(module: nn.Module, site: Site, config: QuantizerConfig) -> tuple[tuple[int, ...], int | None]:
    granularity, axis = weight_granularity(module, site, config)
    if granularity == "per_tensor" or axis is None:
        return (), None
    weight: Any = module.get_submodule(site.module).weight
    return tuple(size if d == axis % weight.ndim else 1 for d, size in enumerate(weight.shape)), axis


def _attach(network: nn.Module, site: Site, quantizer: TrainedQuantizer) -> None:
    target: Any = network.get_submodule(site.module)
    target.add_module(_NAMES[site.kind], quantizer.to(next(network.parameters()).device))
    if site.kind == "weight":
        swap_class(target, QuantizedWeight)
    else:
        quantize_by(target, _NAMES[site.kind], site)
