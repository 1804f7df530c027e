"""Quantization-aware training with a penalty on the kurtosis of chosen weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from torch import Tensor

from qexp.kernels.kurtosis import kurtosis, kurtosis_penalty
from qexp.methods.base import Batch, Context, Report, SiteChange, Surgery, untold
from qexp.methods.kurtosis_qat.settings import Settings
from qexp.methods.qat.method import QAT
from qexp.models.sites import AdaptedModel
from qexp.models.weight_kurtosis import candidates, describe, latent_weight, measure, select


class KurtosisQAT(QAT):
    """As :class:`QAT`, with KURE's penalty (arXiv 2002.07686) on the weights that a rule leaves it (2106.13035)."""

    name = "kurtosis_qat"
    paper: ClassVar[str | None] = "2106.13035"
    settings: Settings  # type: ignore[assignment]  # its own, not QAT's

    def prepare(self, model: AdaptedModel, context: Context) -> Surgery:
        if self.settings.qat:
            return super().prepare(model, context)
        self.context = context
        return Surgery(tuple(SiteChange(site.name, "candidate of the kurtosis penalty") for site in candidates(model)))

    def begin(self, model: AdaptedModel) -> dict[str, Any]:
        """Choose tensors by the kurtosis that they start with; tell it, and each one's share of the whole penalty."""
        own, found = self.settings, measure(model)
        self.chosen, _ = select(found, own.select, names=own.names, threshold=own.threshold)
        return {"tensors": describe(found, self.chosen, own.target)}

    def calibrate(self, model: AdaptedModel, batches: Iterable[Batch], report: Report = untold) -> dict[str, Any]:
        return super().calibrate(model, batches, report) if self.settings.qat else {}

    def extra_loss(self, model: AdaptedModel) -> Tensor:
        """lambda times the penalty on the latent float weights: quantized ones have steps for a gradient."""
        kurtoses = [kurtosis(latent_weight(model, model.sites[name])) for name in self.chosen]
        return self.settings.weight * kurtosis_penalty(kurtoses, self.settings.target, self.settings.mode)

    def analyse(self, model: AdaptedModel, batches: Iterable[Batch], before: Mapping[str, Any]) -> dict[str, Any]:
        """Kurtosis of every candidate before and after training, None where it is constant."""
        after = measure(model)
        tensors = {
            name: {
                "before": told["kurtosis"],
                "after": after[name],
                "selected": told["selected"],
                "share": told["share"],
            }
            for name, told in before["tensors"].items()
        }
        return {"kind": "weight_kurtosis", "target": self.settings.target, "tensors": tensors}


METHOD = KurtosisQAT
