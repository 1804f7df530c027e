"""Clipped softmax in every self-attention layer."""

from __future__ import annotations

from typing import ClassVar

from qexp.kernels.attention import gamma_from_alpha
from qexp.methods.base import BaseMethod, Context, SiteChange, Surgery
from qexp.methods.clipped_softmax.functional import ClippedSoftmax
from qexp.methods.clipped_softmax.settings import PAPER_GAMMA, Settings
from qexp.models.attention import Softmax
from qexp.models.sites import AdaptedModel
from qexp.models.surgery import set_probability


class ClippedSoftmaxMethod(BaseMethod):
    """Replaces the softmax by its stretched and clipped form (arXiv 2306.12929, section 4.1)."""

    name = "clipped_softmax"
    paper: ClassVar[str | None] = "2306.12929"
    settings: Settings

    def prepare(self, model: AdaptedModel, context: Context) -> Surgery:
        gamma, zeta = self.gamma(context.max_length), self.settings.zeta
        # The neutral setting is the ordinary softmax itself, so that it takes vanilla's fused path, bit for bit.
        neutral = gamma == 0.0 and zeta == 1.0
        changes = set_probability(
            model, lambda _: Softmax() if neutral else ClippedSoftmax(gamma, zeta), owner=self.name
        )
        return Surgery(tuple(SiteChange(*change) for change in changes))

    def gamma(self, max_length: int) -> float:
        """The stretch below zero for the configured length T (fixed, whatever the length of a batch)."""
        if self.settings.alpha is not None:
            return float(gamma_from_alpha(self.settings.alpha, max_length))
        return PAPER_GAMMA if self.settings.gamma is None else self.settings.gamma


METHOD = ClippedSoftmaxMethod
