"""A gate behind the attention of every layer."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from qexp.kernels.gates import AllHeadsLinearGate, LinearGate, MLPGate
from qexp.methods.base import BaseMethod, Context, ParameterRule, SiteChange, Surgery
from qexp.methods.gated_attention.settings import Settings
from qexp.models.sites import AdaptedModel, AttentionInfo
from qexp.models.surgery import set_gate

GATE_PARAMETERS = ".qexp.gate."
"""Every parameter of a gate has this in its name."""


class GatedAttention(BaseMethod):
    """``sigmoid(G(x)) * (softmax(q k^T / sqrt(d)) v)`` per head and token (arXiv 2306.12929, eq. 5 to 7)."""

    name = "gated_attention"
    paper: ClassVar[str | None] = "2306.12929"
    settings: Settings

    def prepare(self, model: AdaptedModel, context: Context) -> Surgery:
        finetune = context.pretrained if self.settings.finetune == "auto" else self.settings.finetune
        changes = set_gate(model, lambda info: self._gate(info, finetune), owner=self.name)
        return Surgery(tuple(SiteChange(*change) for change in changes))

    def parameter_rules(self) -> tuple[ParameterRule, ...]:
        if self.settings.lr_factor == 1.0:
            return ()
        return (ParameterRule(GATE_PARAMETERS, lr_factor=self.settings.lr_factor, weight_decay=0.0),)

    def _gate(self, info: AttentionInfo, finetune: bool) -> nn.Module:
        gate = self._fresh_gate(info)
        if finetune:
            gate.init_for_finetuning(self.settings.init_std)
        return gate

    def _fresh_gate(self, info: AttentionInfo) -> LinearGate | MLPGate | AllHeadsLinearGate:
        settings = self.settings
        if settings.kind == "all_heads":
            return AllHeadsLinearGate(info.heads, info.width, settings.pi_init)
        # A head's gate sees its slice of the module's *input*, which need not be as wide as its query (Llama).
        slice_width = info.width // info.heads
        if settings.kind == "linear":
            return LinearGate(info.heads, slice_width, 0.5 if settings.pi_init is None else settings.pi_init)
        return MLPGate(info.heads, slice_width, settings.hidden or max(1, slice_width // 4), settings.pi_init)


METHOD = GatedAttention
