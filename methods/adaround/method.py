"""Post-training quantization with learnt rounding of the linear layers' weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import ClassVar

from torch import nn

from qexp.conf.schema import QuantConfig
from qexp.kernels.adaround import Recipe
from qexp.methods.adaround.layers import round_layers, with_weights
from qexp.methods.adaround.settings import Settings
from qexp.methods.base import BaseMethod, Batch
from qexp.models.quantization import quantize_model
from qexp.models.sites import AdaptedModel


class AdaRound(BaseMethod):
    """Each weight goes down or up, whichever changes its layer's output least (arXiv 2004.10568)."""

    name = "adaround"
    paper: ClassVar[str | None] = "2004.10568"
    shows_ptq: ClassVar[bool] = True
    settings: Settings

    def convert(self, model: AdaptedModel, spec: QuantConfig, bits: str, batches: Iterable[Batch]) -> nn.Module:
        inputs, own = list(batches), self.settings
        recipe = Recipe(own.steps, own.batch_rows, own.learning_rate, own.regularization)
        right_steps = replace(spec, weight_step_ratio=1.0)
        found = round_layers(model, right_steps, bits, inputs, recipe, own.asymmetric)
        return quantize_model(with_weights(model, found.layers), spec, bits, inputs, found.grids)


METHOD = AdaRound
