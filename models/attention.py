"""The one attention function that every family uses, and the parts of it that methods and quantizers can reach.

``scores -> [site] -> mask -> probability function -> [site] -> dropout -> context -> [gate] -> [site]``

Hugging Face models look their attention up by name (``config._attn_implementation``). :func:`qexp_attention` is
registered under ``"qexp"`` together with a *mask* function: without the latter transformers passes no mask at all, and
causal models then see the future without a warning.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from qexp.kernels.attention import clipped_softmax

NAME: Final = "qexp"


class Tap(nn.Module):
    """Identity without parameters: a place whose output is a site."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Operands(nn.Module):
    """Identity of query, key and value: where a precision casts what attention multiplies."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return query, key, value


class Softmax(nn.Module):
    """``softmax(x)`` over the last axis: clipped softmax at its neutral setting, where nothing is clipped."""

    stretch = (0.0, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        return clipped_softmax(x, 0.0, 1.0)


class AttentionParts(nn.Module):
    """What qexp adds to an attention module, as its submodule ``qexp``.

    ``query`` and ``key`` carry ``[B, H, T, d]`` (keys ``[B, H_kv, T, d]``) as they enter the score product, ``scores``
    and ``probs`` ``[B, H, T, T]`` before the mask and after the probability function, ``context`` ``[B, T, H * d]``.
    ``context_after_gate`` says on which side of the gate the context site lies. ``operands`` and ``product`` enclose
    both products: all three operands, and their outcome ``[B, H, T, d]`` before any gate.
    """

    gate: nn.Module | None
    integer: nn.Module | None
    rescale: nn.Module | None

    def __init__(self, context_after_gate: bool):
        super().__init__()
        self.query, self.key = Tap(), Tap()
        self.operands, self.product = Operands(), Tap()
        self.scores, self.probs, self.context = Tap(), Tap(), Tap()
        self.probability: nn.Module = Softmax()
        self.gate = None
        self.integer = self.rescale = None
        """Both products in integers, once converted (:class:`~qexp.models.integer_layers.IntegerAttention`); and a
        factor on the context, which depends on the number of keys (:mod:`qexp.models.unit_scaled`)."""
        self.context_after_gate = context_after_gate
        self.claims: dict[str, str] = {}
        """Slot (``probability``, ``gate``) -> name of the method that filled it."""

    def is_plain(self) -> bool:
        """True while nothing looks at scores or probabilities and they are the ordinary softmax's."""
        watched = (self.scores, self.probs, self.probability)
        hooked = any(part._forward_hooks or part._forward_pre_hooks for part in watched)
        return type(self.probability) is Softmax and not hooked


def attach_parts(attention: nn.Module, *, context_after_gate: bool) -> None:
    """Give an attention module its ``qexp`` parts, unless it has them."""
    if not isinstance(getattr(attention, NAME, None), AttentionParts):
        attention.add_module(NAME, AttentionParts(context_after_gate))


def pass_gate_input(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Forward pre-hook of a gated attention module: hands its input [B, T, width] on to :func:`qexp_attention`."""
    return args, {**kwargs, "gate_input": args[0] if args else kwargs["hidden_states"]}


def qexp_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    gate_input: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor | None]:
    """``gate(x) * (probability(q k^T * scaling + mask) v)``, paper eq. 4 to 7; returns context [B, T, H, d] and probs.

    ``query`` [B, H, T, d]; ``key`` and ``value`` [B, H_kv, T, d] with H a multiple of H_kv. With the ordinary softmax,
    nothing watching and no dropout, torch's fused kernel computes the same context and no probabilities are returned:
    6 to 8 % of a training step at T = 128 and width 384 on one CPU core, up to 2 % at width 768. A converted module
    multiplies integers, and returns no probabilities either.
    """
    parts: AttentionParts = module.qexp  # type: ignore[assignment]  # nn.Module.__getattr__ is typed as Tensor | Module
    query, key = parts.query(query), parts.key(key)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if parts.integer is not None:
        context = parts.integer(query, key, value, attention_mask, scale, parts.probability)
        return _gated(parts, context.transpose(1, 2), gate_input), None
    query, key, value = parts.operands(query, key, value)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    dropped = dropout if module.training else 0.0
    probs: Tensor | None = None
    if parts.is_plain() and dropped == 0.0 and query.dtype == key.dtype == value.dtype:
        mask = _mask_in(query.dtype, attention_mask)
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    else:
        probs = _probabilities(parts, query, key, attention_mask, scale).to(value.dtype)
        context = torch.matmul(F.dropout(probs, dropped) if dropped else probs, value)
    if parts.rescale is not None:
        context = parts.rescale(context, key.shape[2])
    return _gated(parts, parts.product(context).transpose(1, 2), gate_input), probs


def _mask_in(dtype: torch.dtype, mask: Tensor | None) -> Tensor | None:
    # fp32's smallest number is -inf in a half type, and a row of nothing but -inf is NaN after the softmax.
    if mask is None or mask.dtype == dtype:
        return mask
    return mask.clamp(min=torch.finfo(dtype).min).to(dtype)


def _probabilities(parts: AttentionParts, query: Tensor, key: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    # The score site lies before the mask: after it, the mask's huge constant would be the range.
    scores: Tensor = parts.scores(torch.matmul(query, key.transpose(2, 3)) * scale)
    probs: Tensor = parts.probs(parts.probability(scores if mask is None else scores + mask))
    return probs


def _gated(parts: AttentionParts, context: Tensor, gate_input: Tensor | None) -> Tensor:
    """Context [B, T, H, d] through gate and site, in the order of ``context_after_gate``."""
    shape = context.shape
    if parts.gate is not None and parts.context_after_gate:
        context = context * parts.gate(gate_input).transpose(1, 2)
    context = parts.context(context.flatten(2)).view(shape)
    if parts.gate is not None and not parts.context_after_gate:
        context = context * parts.gate(gate_input).transpose(1, 2)
    return context


AttentionInterface.register(NAME, qexp_attention)
AttentionMaskInterface.register(NAME, eager_mask)
