"""Which per-channel scales fold exactly into the weights around them, and folding them.

``W2 x = (W2 diag(alpha)^-1) (diag(alpha) x)`` for positive alpha: what makes ``x`` is multiplied, the columns of every
linear layer that reads it are divided, and the network computes the same while the tensor between them has other
magnitudes (arXiv 2211.16912; 2211.10438, eq. 3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from qexp.conf.errors import UserError
from qexp.models.sites import AdaptedModel, AttentionInfo, LinearInfo, Site
from qexp.models.surgery import parts_of

NORMS = ("attention_norm", "ffn_norm")
HOMOGENEOUS = (nn.ReLU, nn.LeakyReLU)
"""Activation functions with ``act(alpha x) = alpha act(x)`` for every alpha > 0."""


@dataclass(frozen=True)
class Scaling:
    """One vector alpha that folds: where it multiplies and where it divides. Modules are dotted paths."""

    name: str
    """``layers.3.<role>``."""
    role: str
    layer: int
    channels: int
    """Length of alpha."""
    producer: str
    """The normalisation (gain and bias) or linear layer (rows of weight and bias) that is multiplied by alpha."""
    consumers: tuple[str, ...]
    """The linear layers whose input columns are divided by alpha."""
    sites: tuple[str, ...]
    """Activation sites whose whole tensor is multiplied by alpha, in forward order; the consumers read the last one.
    GPT-2's ``qkv``, of which only the values are, is none of them."""
    first_row: int = 0
    """Row of the producer at which alpha begins: GPT-2's values are the last third of a fused projection."""
    groups: int = 1
    """Query heads that share a value head: the consumers' input repeats each head's alpha so often."""
    head_dim: int | None = None

    @property
    def input(self) -> str:
        """The site that the consumers read."""
        return self.sites[-1]

    def at_input(self, alpha: Tensor) -> Tensor:
        """alpha [channels] as the consumers' input has it, [channels * groups]; differentiable."""
        return alpha.view(-1, self.head_dim or self.channels).repeat_interleave(self.groups, 0).flatten()

    def largest(self, per_input: Tensor) -> Tensor:
        """Of a number per channel of the consumers' input, the largest that shares an alpha: [channels]."""
        return per_input.view(-1, self.groups, self.head_dim or self.channels).amax(1).flatten()


def scalings(model: AdaptedModel, roles: Sequence[str] | None = None) -> tuple[Scaling, ...]:
    """Every scaling of the given roles, by layer: ``attention_norm``, ``ffn_norm``, ``value``, ``up``, ``ffn_hidden``.

    None means :func:`default_roles`. A role that does not fold in this network is a ``UserError`` that says why.
    """
    wanted = default_roles(model) if roles is None else roles
    found = [scaling for role in dict.fromkeys(wanted) for scaling in _FINDERS.get(role, _norms)(model, role)]
    return tuple(sorted(found, key=lambda scaling: scaling.layer))


def default_roles(model: AdaptedModel) -> tuple[str, ...]:
    """The normalisations that fold; where none does (post-LayerNorm networks), ``value``, which always does."""
    return tuple(role for role in NORMS if _folds(model, role)) or ("value",)


def _folds(model: AdaptedModel, role: str) -> bool:
    try:
        return bool(_norms(model, role))
    except UserError:
        return False


def _norms(model: AdaptedModel, role: str) -> list[Scaling]:
    sites = [site for site in model.sites.with_role(role) if _gain(model, site) is not None]
    if not sites:
        raise _refusal(model, role, "there is no normalisation with a gain of that role")
    return [_norm(model, site, _readers(model, role, site.name)) for site in sites]


def _gain(model: AdaptedModel, site: Site) -> Tensor | None:
    weight = getattr(model.module.get_submodule(site.module), "weight", None)
    return weight if site.kind == "output" and isinstance(weight, Tensor) and weight.ndim == 1 else None


def _norm(model: AdaptedModel, site: Site, readers: Sequence[LinearInfo]) -> Scaling:
    gain, layer = _gain(model, site), site.layer
    assert gain is not None and layer is not None, "only normalisations of a layer have such readers"
    consumers = tuple(info.module for info in readers)
    return Scaling(site.name, site.role, layer, len(gain), site.module, consumers, (site.name,))


def _values(model: AdaptedModel, role: str) -> list[Scaling]:
    """Values enter the context linearly, whatever the probabilities are, and a gate multiplies it per head."""
    return [_value(model, role, info) for info in model.attention]


def _value(model: AdaptedModel, role: str, info: AttentionInfo) -> Scaling:
    made = next(linear for linear in model.linears if linear.output == info.value)
    outputs, fused = _outputs(model, made), info.query == info.value
    channels = outputs // 3 if fused else outputs
    return Scaling(
        name=f"layers.{info.layer}.{role}",
        role=role,
        layer=info.layer,
        channels=channels,
        producer=made.module,
        consumers=tuple(reader.module for reader in _readers(model, role, info.context)),
        sites=(info.context,) if fused else (info.value, info.context),
        first_row=outputs - channels,
        groups=info.heads * info.head_dim // channels,
        head_dim=info.head_dim,
    )


def _ffn(model: AdaptedModel, role: str) -> list[Scaling]:
    """``up`` enters the FFN's hidden layer linearly; ``ffn_hidden`` passes through its activation function first."""
    made = [info for info in model.linears if info.layer is not None and info.name == f"layers.{info.layer}.{role}"]
    if not made:
        raise _refusal(model, role, "there is no linear layer of that role")
    return [_hidden(model, role, info, info.layer) for info in made if info.layer is not None]


def _hidden(model: AdaptedModel, role: str, made: LinearInfo, layer: int) -> Scaling:
    hidden = f"layers.{layer}.ffn_hidden"
    activation = model.module.get_submodule(model.sites[hidden].module)
    if made.output is None and not any(isinstance(part, HOMOGENEOUS) for part in activation.modules()):
        raise _refusal(model, role, "an activation function other than ReLU stands in between")
    consumers = tuple(reader.module for reader in _readers(model, role, hidden))
    sites = (hidden,) if made.output is None else (made.output, hidden)
    return Scaling(made.name, role, layer, _outputs(model, made), made.module, consumers, sites)


_FINDERS: dict[str, Callable[[AdaptedModel, str], list[Scaling]]] = {"value": _values, "up": _ffn, "ffn_hidden": _ffn}


def _readers(model: AdaptedModel, role: str, site: str) -> tuple[LinearInfo, ...]:
    """The linear layers that read ``site``; a ``UserError`` where anything else reads it too."""
    readers = tuple(info for info in model.linears if info.input == site)
    gated = [info.value for info in model.attention if parts_of(model, info).gate is not None]
    if not readers:
        raise _refusal(model, role, f"the head, which stays in floating point, reads {site}")
    if any(info.shared for info in readers):
        raise _refusal(model, role, f"not only linear layers read {site}: the residual stream does too")
    if any(info.output in gated for info in readers):
        raise _refusal(model, role, f"the gate of the attention reads {site} too")
    return readers


def _refusal(model: AdaptedModel, role: str, reason: str) -> UserError:
    return UserError(f"a scale at {role!r} does not fold into this {model.family} network: {reason}")


def _outputs(model: AdaptedModel, info: LinearInfo) -> int:
    weight = model.module.get_parameter(f"{info.module}.weight")
    return weight.shape[model.sites[info.weight].channel_axis]


@torch.no_grad()
def fold(network: nn.Module, scaling: Scaling, alpha: Tensor) -> None:
    """Multiply the tensors at ``scaling.sites`` by ``alpha`` [channels] in place, and leave the function as it is.

    Exact in real arithmetic, and bit for bit where every alpha is a power of two. ``network`` is the one that the
    scaling was found in, or a copy. ``ValueError`` unless alpha is positive and finite, and where weights are not
    plain parameters (fold before quantizers are placed).
    """
    _check(alpha, scaling.channels)
    producer, *consumers = (_plain(network, name) for name in (scaling.producer, *scaling.consumers))
    weight, bias = producer.get_parameter("weight"), dict(producer.named_parameters(recurse=False)).get("bias")
    scaled = scale_output(weight, bias, alpha, first_row=scaling.first_row, conv1d=isinstance(producer, Conv1D))
    for old, new in zip((weight, bias), scaled, strict=True):
        if old is not None and new is not None:
            old.copy_(new)
    for consumer in consumers:
        columns = consumer.get_parameter("weight")
        columns.copy_(unscale_input(columns, scaling.at_input(alpha), conv1d=isinstance(consumer, Conv1D)))


def _plain(network: nn.Module, name: str) -> nn.Module:
    module = network.get_submodule(name)
    if "weight" not in dict(module.named_parameters(recurse=False)):
        raise ValueError(f"the weight of {name} is no plain parameter; fold before quantizers are placed")
    return module


def _check(alpha: Tensor, channels: int) -> None:
    if alpha.shape != (channels,):
        raise ValueError(f"alpha should have the shape [{channels}], not {list(alpha.shape)}")
    if not bool((torch.isfinite(alpha) & (alpha > 0)).all()):
        raise ValueError("alpha must be positive and finite")


def scale_output(
    weight: Tensor, bias: Tensor | None, alpha: Tensor, *, first_row: int = 0, conv1d: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a layer whose outputs, from ``first_row`` on, are multiplied by ``alpha``; differentiable.

    ``weight`` is a linear layer's [out, in], a ``Conv1D``'s [in, out], or a normalisation's gain [out].
    """
    outputs = weight.shape[-1] if conv1d else weight.shape[0]
    factor = F.pad(alpha.to(weight), (first_row, outputs - first_row - len(alpha)), value=1.0)
    by_row = factor if conv1d or weight.ndim == 1 else factor[:, None]
    return weight * by_row, None if bias is None else bias * factor


def unscale_input(weight: Tensor, alpha: Tensor, *, conv1d: bool = False) -> Tensor:
    """The weight [out, in] (``Conv1D``: [in, out]) for inputs multiplied by ``alpha`` [in]; differentiable."""
    alpha = alpha.to(weight)
    return weight / (alpha[:, None] if conv1d else alpha)
