"""Learnt channel-wise scales around activation quantizers, folded into the weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import nn

from qexp.conf.errors import UserError
from qexp.conf.schema import QuantConfig, QuantizerConfig
from qexp.kernels.following_range import FollowingRange
from qexp.kernels.quantize import QParams
from qexp.kernels.trained_quantizers import CurrentRange, TrainedQuantizer
from qexp.methods.base import Batch, Context, ParameterRule, Report, SiteChange, Surgery, untold
from qexp.methods.qat.method import QAT
from qexp.methods.quadapter.blockwise import fit_blocks
from qexp.methods.quadapter.settings import Settings
from qexp.models import qat, scales
from qexp.models.blocks import block_paths
from qexp.models.folding import scalings
from qexp.models.quantization import quantize_model
from qexp.models.sites import AdaptedModel, Site


class Quadapter(QAT):
    """``x -> A^-1 Q(A x)`` with A = diag(alpha), alpha = exp(a) learnt, weights frozen (arXiv 2211.16912)."""

    name = "quadapter"
    paper: ClassVar[str | None] = "2211.16912"
    shows_ptq = True
    settings: Settings  # type: ignore[assignment]  # its own, not QAT's

    def prepare(self, model: AdaptedModel, context: Context) -> Surgery:
        self.scalings = scalings(model, self.settings.roles) if self.settings.learn_scales else ()
        surgery = super().prepare(model, context)
        model.module.requires_grad_(False)
        scales.install(model, self.scalings).requires_grad_(True)
        for _, quantizer in self._learnt(model):
            quantizer.requires_grad_(True)
        changes = (SiteChange(one.name, f"{one.channels} scales, folded: {one.producer}") for one in self.scalings)
        return Surgery((*surgery.replaced, *changes))

    def calibrate(self, model: AdaptedModel, batches: Iterable[Batch], report: Report = untold) -> dict[str, Any]:
        """Ranges as post-training quantization finds them; then the first phase, and ranges for what it left."""
        seen = list(batches)
        self._start(model, seen)
        if not (self.settings.blockwise and self.scalings):
            return {}
        model.module.eval()
        self._follow(model, True)
        errors = fit_blocks(model, seen, self._by_layer(model), self.settings, report)
        self._follow(model, False)
        self._check_bound(model)
        self._start(model, seen)
        return {"block_errors": [{"before": first, "after": last} for first, last in errors]}

    def parameter_rules(self) -> tuple[ParameterRule, ...]:
        ranges = ParameterRule(".trained_", lr_factor=self.settings.range_lr_factor, weight_decay=0.0)
        return (ranges, ParameterRule(scales.LOG_SCALES, weight_decay=0.0))

    def after_step(self, model: AdaptedModel, step: int) -> None:
        for _, quantizer in self._learnt(model):
            quantizer.keep_positive()
        self._check_bound(model)

    def finish(self, model: AdaptedModel) -> None:
        scales.rest(model)
        super().finish(model)

    def strip(self, model: AdaptedModel) -> None:
        scales.strip(model)
        super().strip(model)

    def convert(self, model: AdaptedModel, spec: QuantConfig, bits: str, batches: Iterable[Batch]) -> nn.Module:
        """Alpha folded into a copy; with the learnt ranges at the trained bits, calibrated anew at others."""
        ranges = self._ranges(model) if bits == self._bits else {}
        return quantize_model(self._folded(model), spec, bits, batches, ranges)

    def analyse(self, model: AdaptedModel, batches: Iterable[Batch], before: Mapping[str, Any]) -> dict[str, Any]:
        """Smallest and largest alpha of every scaling, and the blocks' errors before and after the first phase."""
        found = {}
        for index, scaling in enumerate(self.scalings):
            alpha = scales.log_scales(model).alpha(index).detach()
            found[scaling.name] = {"min": float(alpha.min()), "max": float(alpha.max()), "channels": scaling.channels}
        return {"kind": "scales", "scales": found, **before}

    def _start(self, model: AdaptedModel, batches: list[Batch]) -> None:
        qat.start(model, quantize_model(self._folded(model), self.context.quant, self._bits, batches))

    def _folded(self, model: AdaptedModel) -> AdaptedModel:
        """A copy with alpha in its weights, and nothing of the method's own."""
        network = copy.deepcopy(model.module).eval()
        copied = replace(model, module=network)
        self.finish(copied)
        scales.fold_all(network, self.scalings, scales.log_scales(copied))
        self.strip(copied)
        return copied

    def _follow(self, model: AdaptedModel, following: bool) -> None:
        for _, quantizer in self._learnt(model):
            quantizer.following = following

    def _learnt(self, model: AdaptedModel) -> list[tuple[Site, FollowingRange]]:
        return [(site, q) for site, q in qat.trained_quantizers(model) if isinstance(q, FollowingRange)]

    def _by_layer(self, model: AdaptedModel) -> list[list[nn.Parameter]]:
        """Of each block, the parameters of its scales."""
        values = scales.log_scales(model).values
        layers = range(len(block_paths(model)))
        return [[values[i] for i, one in enumerate(self.scalings) if one.layer == layer] for layer in layers]

    @torch.no_grad()
    def _check_bound(self, model: AdaptedModel) -> None:
        limit = math.log(self.settings.max_scale)
        for scaling, value in zip(self.scalings, scales.log_scales(model).values, strict=True):
            if not bool((value.abs() < limit).all()):
                raise UserError(
                    f"a scale at {scaling.name} reached method.max_scale={self.settings.max_scale:g}: lower "
                    "method.learning_rate or train.learning_rate, or raise the bound"
                )

    def _ranges(self, model: AdaptedModel) -> dict[str, QParams]:
        return {site.name: quantizer.qparams for site, quantizer in self._learnt(model)}

    def _quantizer(
        self, site: Site, config: QuantizerConfig, bits: int, shape: tuple[int, ...], axis: int | None
    ) -> TrainedQuantizer:
        if site.kind == "weight":
            return CurrentRange(bits, config.symmetric, shape, axis)
        return FollowingRange(bits, config.symmetric)


METHOD = Quadapter
