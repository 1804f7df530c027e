"""How a method changes attention: set the probability function or the gate of every attention module at once.

These return what was changed as (site name, what stands there now), and remember who did it: a second method that asks
for the same slot is an error that names both.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from qexp.conf.errors import UserError
from qexp.models.attention import AttentionParts, pass_gate_input
from qexp.models.sites import AdaptedModel, AttentionInfo

Change = tuple[str, str]


def set_probability(
    model: AdaptedModel, make: Callable[[AttentionInfo], nn.Module], *, owner: str
) -> tuple[Change, ...]:
    """Replace the softmax of every attention module by ``make(info)``: scores [B, H, T, T] in, probabilities out."""
    for info in model.attention:
        parts, _ = claim(model, info, "probability", owner)
        parts.probability = make(info).train(parts.training)
    return _changes(model, "attention_probs", lambda parts: parts.probability)


def set_gate(model: AdaptedModel, make: Callable[[AttentionInfo], nn.Module], *, owner: str) -> tuple[Change, ...]:
    """Put the gate ``make(info)`` behind every attention module: its input [B, T, width] in, [B, H, T, 1] out."""
    for info in model.attention:
        parts, attention = claim(model, info, "gate", owner)
        weight = next(attention.parameters())
        parts.gate = make(info).to(weight.device, weight.dtype).train(parts.training)
        attention.register_forward_pre_hook(pass_gate_input, with_kwargs=True)
    return _changes(model, "context", lambda parts: parts.gate)


def set_dropout(module: nn.Module, probability: float | None) -> None:
    """Set every dropout of the network, attention's included (a number there, not a module, in OPT and Llama).

    Null leaves all of them as they are.
    """
    if probability is None:
        return
    for child in module.modules():
        if isinstance(child, nn.Dropout):
            child.p = probability
        for name in ("dropout", "attention_dropout"):
            if isinstance(getattr(child, name, None), float):
                setattr(child, name, probability)


def parts_of(model: AdaptedModel, info: AttentionInfo) -> AttentionParts:
    """The qexp parts of one attention module."""
    parts = model.module.get_submodule(f"{info.module}.qexp")
    assert isinstance(parts, AttentionParts)
    return parts


def claim(model: AdaptedModel, info: AttentionInfo, slot: str, owner: str) -> tuple[AttentionParts, nn.Module]:
    """Take a slot of an attention module for ``owner``: its parts, and the module. ``UserError`` if it is taken."""
    parts = parts_of(model, info)
    if slot in parts.claims:
        raise UserError(
            f"methods {parts.claims[slot]!r} and {owner!r} both set the attention's {slot}; choose one of them"
        )
    parts.claims[slot] = owner
    return parts, model.module.get_submodule(info.module)


def _changes(model: AdaptedModel, role: str, now: Callable[[AttentionParts], nn.Module | None]) -> tuple[Change, ...]:
    return tuple((f"layers.{info.layer}.{role}", repr(now(parts_of(model, info)))) for info in model.attention)
