"""Quantization-aware training with learnt step sizes (LSQ) and offsets (LSQ+)."""

from __future__ import annotations

from typing import ClassVar

from qexp.conf.schema import QuantizerConfig
from qexp.kernels.quantize import QParams
from qexp.kernels.trained_quantizers import LearntRange, TrainedQuantizer
from qexp.methods.base import ParameterRule
from qexp.methods.lsq.settings import Settings
from qexp.methods.qat.method import QAT
from qexp.models import qat
from qexp.models.sites import AdaptedModel, Site


class LSQ(QAT):
    """As :class:`QAT`, with every step size a parameter (arXiv 1902.08153), in LSQ+ (2004.09576) every offset too."""

    name = "lsq"
    paper: ClassVar[str | None] = "1902.08153"
    settings: Settings  # type: ignore[assignment]  # its own, not QAT's

    def parameter_rules(self) -> tuple[ParameterRule, ...]:
        return (ParameterRule(".trained_", lr_factor=self.settings.lr_factor, weight_decay=0.0),)

    def after_step(self, model: AdaptedModel, step: int) -> None:
        for _, quantizer in qat.trained_quantizers(model):
            assert isinstance(quantizer, LearntRange)
            quantizer.keep_positive()

    def _ranges(self, model: AdaptedModel) -> dict[str, QParams]:
        return qat.ranges(model)

    def _quantizer(
        self, site: Site, config: QuantizerConfig, bits: int, shape: tuple[int, ...], axis: int | None
    ) -> TrainedQuantizer:
        return LearntRange(bits, config.symmetric, shape, self.settings.learn_offset)


METHOD = LSQ
