"""Quantization-aware training: every site is fake-quantized in every step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

from torch import nn

from qexp.conf.schema import QuantConfig, QuantizerConfig
from qexp.kernels.quantize import QParams
from qexp.kernels.trained_quantizers import CurrentRange, RunningRange, TrainedQuantizer
from qexp.methods.base import BaseMethod, Batch, Context, Report, SiteChange, Surgery, untold
from qexp.methods.qat.settings import Settings
from qexp.models import qat
from qexp.models.quantization import quantize_model
from qexp.models.sites import AdaptedModel, Site


class QAT(BaseMethod):
    """Straight-through fake quantization of weights and activations while training; also the base of others."""

    name = "qat"
    paper: ClassVar[str | None] = "1712.05877"
    settings: Settings

    def prepare(self, model: AdaptedModel, context: Context) -> Surgery:
        self.context = context
        placed = qat.install(model, context.quant, self._bits, self._quantizer)
        return Surgery(tuple(SiteChange(name, repr(quantizer)) for name, quantizer in placed.items()))

    def calibrate(self, model: AdaptedModel, batches: Iterable[Batch], report: Report = untold) -> dict[str, Any]:
        """Start every quantizer where post-training quantization would leave it."""
        qat.start(model, quantize_model(model, self.context.quant, self._bits, batches))
        return {}

    def after_step(self, model: AdaptedModel, step: int) -> None:
        if step >= self._last_moving_step:
            for _, quantizer in qat.trained_quantizers(model):
                if isinstance(quantizer, RunningRange):
                    quantizer.moving = False

    def finish(self, model: AdaptedModel) -> None:
        qat.rest(model)

    def strip(self, model: AdaptedModel) -> None:
        qat.strip(model)

    def convert(self, model: AdaptedModel, spec: QuantConfig, bits: str, batches: Iterable[Batch]) -> nn.Module:
        """With the ranges of training at its own bits; at others, the trained weights are calibrated anew."""
        ranges = self._ranges(model) if bits == self._bits else {}
        network = quantize_model(model, spec, bits, batches, ranges)
        qat.strip(replace(model, module=network))
        return network

    @property
    def _bits(self) -> str:
        assert self.settings.bits is not None, "composing settles the bits"
        return self.settings.bits

    @property
    def _last_moving_step(self) -> float:
        share = self.settings.freeze_after
        return math.inf if share == 1.0 else share * self.context.max_steps

    def _ranges(self, model: AdaptedModel) -> dict[str, QParams]:
        """The ranges of activations. A weight moves once more after its last forward pass: its range is found anew."""
        return {name: p for name, p in qat.ranges(model).items() if model.sites[name].kind != "weight"}

    def _quantizer(
        self, site: Site, config: QuantizerConfig, bits: int, shape: tuple[int, ...], axis: int | None
    ) -> TrainedQuantizer:
        if site.kind == "weight":
            return CurrentRange(bits, config.symmetric, shape, axis)
        if self.settings.ranges == "fixed":
            return TrainedQuantizer(bits, config.symmetric)
        return RunningRange(bits, config.symmetric, config.momentum)


METHOD = QAT
