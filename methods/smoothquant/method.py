"""A trained network quantized after its activation outliers were moved into the weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from qexp.conf.errors import UserError
from qexp.conf.schema import QuantConfig
from qexp.methods.base import BaseMethod, Batch
from qexp.methods.smoothquant.functional import smoothing_scales
from qexp.methods.smoothquant.settings import Settings
from qexp.models.attachment import naming
from qexp.models.capture import capture
from qexp.models.folding import Scaling, fold, scalings
from qexp.models.quantization import quantize_model, run_body
from qexp.models.sites import AdaptedModel, Site


class SmoothQuant(BaseMethod):
    """``Y = (X diag(s)^-1) (diag(s) W)``, folded, then quantized (arXiv 2211.10438)."""

    name = "smoothquant"
    paper: ClassVar[str | None] = "2211.10438"
    shows_ptq = True
    settings: Settings

    def convert(self, model: AdaptedModel, spec: QuantConfig, bits: str, batches: Iterable[Batch]) -> nn.Module:
        seen = list(batches)
        return quantize_model(self.smoothed(model, seen), spec, bits, seen)

    def smoothed(self, model: AdaptedModel, batches: Sequence[Batch]) -> AdaptedModel:
        """A copy of the float network with every scale folded: the same function, other magnitudes."""
        copied = replace(model, module=copy.deepcopy(model.module).eval())
        for scaling, alpha in self.alphas(copied, batches).items():
            with naming(scaling.input):
                fold(copied.module, scaling, alpha)
        return copied

    def alphas(self, model: AdaptedModel, batches: Sequence[Batch]) -> dict[Scaling, Tensor]:
        """``1 / s`` [channels] for every scaling, all measured on the network as it is."""
        chosen = scalings(model, self.settings.roles)
        largest = channel_maxima(model, [model.sites[scaling.input] for scaling in chosen], batches)
        return {one: 1 / self._scales(largest[one.input], _column_maxima(model, one), one) for one in chosen}

    def _scales(self, activations: Tensor, weights: Tensor, scaling: Scaling) -> Tensor:
        """s [channels] from maxima by channel of the consumers' input, of which value heads may share one."""
        return smoothing_scales(scaling.largest(activations), scaling.largest(weights), self.settings.strength)


@torch.no_grad()
def channel_maxima(model: AdaptedModel, sites: Sequence[Site], batches: Sequence[Batch]) -> dict[str, Tensor]:
    """Site name -> largest absolute value of each channel, [C], over all positions (padding counts, as for ranges)."""
    found: dict[str, Tensor] = {}
    with capture(model.module, sites) as caught:
        for batch in batches:
            run_body(model.module, batch)
            for name, x in caught.items():
                largest = x.abs().flatten(0, -2).amax(0)
                found[name] = torch.maximum(found.get(name, largest), largest)
    if not found:
        raise UserError("no calibration batches: raise quant.calibration.batches or the amount of training data")
    return found


def _column_maxima(model: AdaptedModel, scaling: Scaling) -> Tensor:
    """Largest absolute weight that reads each channel, over all consumers: [in]."""
    consumers = [model.module.get_submodule(name) for name in scaling.consumers]
    columns = [_by_input(one).detach().abs().amax(1) for one in consumers]
    return torch.stack(columns).amax(0)


def _by_input(layer: nn.Module) -> Tensor:
    """The layer's weight as [in, out]."""
    weight = layer.get_parameter("weight")
    return weight if isinstance(layer, Conv1D) else weight.T


METHOD = SmoothQuant
