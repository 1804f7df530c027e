"""Linear layers rounded one after another in forward order, each against the float network's output there."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import groupby

import torch
from torch import Tensor, nn

from qexp.conf.schema import QuantConfig
from qexp.kernels.adaround import Recipe, Rounding, learn_rounding
from qexp.kernels.quantize import QParams
from qexp.methods.base import Batch
from qexp.models.attachment import quantizer_at
from qexp.models.blocks import BlockCall, advance, block_paths, call_of, first_inputs, run_block
from qexp.models.quantization import FLOAT_BITS, parse_bits, quantize_model, run_body
from qexp.models.sites import AdaptedModel, LinearInfo, Site


class Stream:
    """A network that is run block by block, as far as somebody asks what its linear layers read."""

    def __init__(self, network: nn.Module, model: AdaptedModel, batches: Sequence[Batch]):
        self.network, self.model, self.batches = network, model, batches
        self.blocks = [network.get_submodule(path) for path in block_paths(model)]
        self.position = 0
        """The block that the calls stand before."""

    @cached_property
    def calls(self) -> list[BlockCall]:
        # On first use, since a layer before the first block may be rounded by then.
        return first_inputs(self.network, self.model, self.batches)

    @torch.no_grad()
    def inputs(self, info: LinearInfo) -> Tensor:
        """What the layer reads at all real tokens (no padding) of all batches: [N, in]. Layers in forward order."""
        layer = self.network.get_submodule(info.module)
        runs: list[Callable[[], object]]
        if info.layer is None:
            runs = [partial(run_body, self.network, batch) for batch in self.batches]
        else:
            self._go_to(info.layer)
            runs = [partial(run_block, self.blocks[info.layer], call, call.hidden) for call in self.calls]
        read = (call_of(layer, run)[0][0] for run in runs)
        return torch.cat([_real_tokens(x, batch) for x, batch in zip(read, self.batches, strict=True)])

    def _go_to(self, block: int) -> None:
        for index in range(self.position, block):
            advance(self.blocks[index], self.calls)
        self.position = block


def _real_tokens(x: Tensor, batch: Batch) -> Tensor:
    """Rows of x [B, T, d], or [B, d] where only one token is read, at which the batch has a token: [N, d]."""
    mask = batch.get("attention_mask")
    return x.flatten(0, -2) if mask is None else x[mask.to(x.device).bool()]


@dataclass(frozen=True)
class Rounded:
    """What :func:`round_layers` found, by the names of the weights' sites."""

    grids: dict[str, QParams]
    layers: dict[str, Rounding]


def round_layers(
    model: AdaptedModel, spec: QuantConfig, bits: str, batches: Sequence[Batch], recipe: Recipe, asymmetric: bool
) -> Rounded:
    """Learn the rounding of every linear layer whose weight ``spec`` and ``bits`` put on a grid.

    ``model`` is in evaluation mode, and stays as it is. Rows are drawn with the calibration seed. While layers are
    rounded one after another, all other weights are rounded to nearest and activations are floats.
    """
    weight_bits, _ = parse_bits(bits)
    network = quantize_model(model, spec, f"w{weight_bits}a{FLOAT_BITS}", [])
    exact = Stream(model.module, model, batches)
    source = Stream(network, model, batches) if asymmetric else exact
    generator = torch.Generator().manual_seed(spec.calibration.seed)
    found = Rounded(_grids(network, model), {})
    chosen = (info for info in model.linears if info.weight in found.grids)
    for _, group in groupby(chosen, key=lambda info: info.input):
        infos = list(group)
        read, reads = exact.inputs(infos[0]), source.inputs(infos[0])
        for info in infos:
            site = model.sites[info.weight]
            weight, grid = out_in(model.module, site), _out_in_grid(site, found.grids[site.name])
            rounding = learn_rounding(weight, grid, reads, read @ weight.t(), recipe, generator)
            out_in(network, site).copy_(rounding.weight)
            found.layers[site.name] = rounding
    return found


def with_weights(model: AdaptedModel, layers: Mapping[str, Rounding]) -> AdaptedModel:
    """A copy of the model that has the rounded weights."""
    rounded = replace(model, module=copy.deepcopy(model.module))
    for name, rounding in layers.items():
        out_in(rounded.module, model.sites[name]).copy_(rounding.weight)
    return rounded


def out_in(network: nn.Module, site: Site) -> Tensor:
    """The weight at a site as [out, in], a view of the parameter without its gradient (``Conv1D`` has [in, out])."""
    weight: Tensor = network.get_submodule(site.module).weight.detach()  # type: ignore[operator]
    return weight.t() if site.channel_axis == 1 else weight


def _out_in_grid(site: Site, p: QParams) -> QParams:
    return replace(p, scale=p.scale.t(), zero_point=p.zero_point.t()) if site.channel_axis == 1 else p


def _grids(network: nn.Module, model: AdaptedModel) -> dict[str, QParams]:
    """The grids of the linear layers' weights that have one, by site."""
    quantizers = {info.weight: quantizer_at(network, model.sites[info.weight]) for info in model.linears}
    return {name: quantizer.qparams for name, quantizer in quantizers.items() if quantizer is not None}
