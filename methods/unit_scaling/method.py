"""Unit scaling: standard deviation 1 in every weight, activation and gradient at initialisation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from qexp.conf.errors import UserError
from qexp.methods.base import BaseMethod, Batch, Context, ParameterRule, SiteChange, Surgery
from qexp.methods.unit_scaling.functional import learning_rate_factors, rules_of, tau_of
from qexp.methods.unit_scaling.settings import Settings
from qexp.models.sites import AdaptedModel
from qexp.models.surgery import set_dropout
from qexp.models.tensor_scales import BAND, deviations, measure_scales, random_batch
from qexp.models.unit_scaled.convert import block_paths, convert, own_tau

ROWS = 8
"""Sequences of random tokens that scales at initialisation are measured on."""


class UnitScaling(BaseMethod):
    """Constant factors in forward and backward instead of a loss scale (arXiv 2303.11257)."""

    name = "unit_scaling"
    paper: ClassVar[str | None] = "2303.11257"
    needs_no_loss_scale: ClassVar[bool] = True
    scores_every_position: ClassVar[bool] = True
    """The loss's factor counts all positions, predicted or not, as the authors' does."""
    settings: Settings

    def prepare(self, model: AdaptedModel, context: Context) -> Surgery:
        if context.pretrained:
            raise UserError(
                "method=unit_scaling starts from random weights: pretrained ones divided by their standard deviations "
                "would need factors of their own, and no factor undoes what nonlinear functions and weighted residual "
                "sums then make of them; choose a model from scratch, as model=tiny_gpt2, or have it trained "
                "unit-scaled first, with model.pretrain.task=wikitext2"
            )
        set_dropout(model.module, context.dropout)
        self._length = context.max_length
        blocks = block_paths(model.module)
        tau = tau_of(self.settings, 2 * len(blocks), own_tau(model))
        changes = convert(model, rules_of(self.settings), tau, self.name)
        factors = learning_rate_factors(model.module, blocks, self.settings.learning_rate_rule)
        self._rates = tuple(ParameterRule(name, lr_factor=factor) for name, factor in factors)
        return Surgery(tuple(SiteChange(*change) for change in changes))

    def begin(self, model: AdaptedModel) -> dict[str, Any]:
        """The check: scales with random tokens, before the first step or where training goes on."""
        return {"scales": deviations(measure_scales(model, random_batch(model, ROWS, self._length)))}

    def parameter_rules(self) -> tuple[ParameterRule, ...]:
        return self._rates

    def analyse(self, model: AdaptedModel, batches: Iterable[Batch], before: Mapping[str, Any]) -> dict[str, Any]:
        """Scales before the first step, and of weights and activations now."""
        now = deviations(measure_scales(model, next(iter(batches))))
        return {"kind": "tensor_scales", "band": list(BAND), "initial": before["scales"], "trained": now}


METHOD = UnitScaling
