"""Post-training quantization with the range estimators of the method's settings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import ClassVar

from torch import nn

from qexp.conf.schema import QuantConfig
from qexp.methods.base import BaseMethod, Batch
from qexp.methods.ptq.settings import Settings
from qexp.models.quantization import quantize_model
from qexp.models.sites import AdaptedModel


class PTQ(BaseMethod):
    """Rounding to nearest on ranges found as chosen here (arXiv 2106.08295, section 3.1)."""

    name = "ptq"
    paper: ClassVar[str | None] = "2106.08295"
    settings: Settings

    def convert(self, model: AdaptedModel, spec: QuantConfig, bits: str, batches: Iterable[Batch]) -> nn.Module:
        activations = replace(spec.activations, range=self.settings.activations)
        weights = replace(spec.weights, range=self.settings.weights)
        return quantize_model(model, replace(spec, activations=activations, weights=weights), bits, batches)


METHOD = PTQ
