"""Layers that compute in dynamic fixed point, forward and backward, with float master weights.

A layer keeps its class's place, its parameters and their names: only its ``forward`` is another one. What its two
passes multiply happens inside two submodules, so that a recorder can tell a layer's products from all else, those of
its gradients too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from qexp.kernels.fixed_point.linear import Arithmetic, bias_gradient, input_gradient, linear, weight_gradient
from qexp.kernels.fixed_point.mapping import NotFiniteError
from qexp.kernels.fixed_point.operand import Operand
from qexp.kernels.fixed_point.randomness import fresh_seed
from qexp.kernels.int8 import PackedWeight, pack_weight
from qexp.models.adapters._common import restore_class, swap_class
from qexp.models.unit_scaled.layers import refuse_unit_scaled

FORWARD, BACKWARD = "qexp_forward", "qexp_backward"
"""Submodules of a layer: in one of them runs everything that it multiplies."""
Wanted = tuple[bool, bool, bool]
"""Which gradients are asked for: of the input, the weight and the bias."""


@dataclass(frozen=True)
class Kept:
    """The integers of a forward pass that the backward pass uses again: never drawn a second time."""

    x: Operand
    weight: Operand


class ForwardProduct(nn.Module):
    """y [M, N] and what the backward pass needs, of float32 x [M, K], weight [N, K] and bias [N]."""

    def __init__(self, name: str, arithmetic: Arithmetic):
        super().__init__()
        self.name, self.arithmetic = name, arithmetic
        self._frozen: tuple[Operand, list[Tensor | PackedWeight]] | None = None

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Kept]:
        rounding = self.arithmetic.forward_rounding
        with naming(f"the input of {self.name}"):
            mapped = self.arithmetic.activations(x, seed_for(rounding))
        factor, packed = self._frozen or (self._mapped(weight), [])
        return linear(mapped, factor, bias, packed), Kept(mapped, factor)

    def freeze(self, weight: Tensor, backend: str) -> None:
        """Map and pack the weight once and for all; from now on everything is rounded to nearest."""
        self.arithmetic = replace(self.arithmetic, forward_rounding="nearest")
        mapped = self._mapped(weight)
        codes = [tile.codes for tile in mapped.tiles]
        self._frozen = mapped, [pack_weight(c, backend) if c.dtype == torch.int8 else c for c in codes]

    def _mapped(self, weight: Tensor) -> Operand:
        with naming(f"the weight of {self.name}"):
            return self.arithmetic.weights(weight, seed_for(self.arithmetic.forward_rounding))


class BackwardProduct(nn.Module):
    """dx [M, K], dw [N, K] and db [N], as far as they are wanted, of the gradient [M, N] and what was kept."""

    def __init__(self, name: str, arithmetic: Arithmetic):
        super().__init__()
        self.name, self.arithmetic = name, arithmetic

    def forward(self, gradient: Tensor, kept: Kept, wanted: Wanted) -> tuple[Tensor | None, ...]:
        with naming(f"the gradient of {self.name}"):
            mapped = self.arithmetic.gradients(gradient, seed_for(self.arithmetic.gradient_rounding))
        return (
            input_gradient(mapped, kept.weight) if wanted[0] else None,
            weight_gradient(mapped, kept.x) if wanted[1] else None,
            bias_gradient(mapped) if wanted[2] else None,
        )


class FixedPointLinear(nn.Module):
    """Mixin for ``nn.Linear`` and ``Conv1D``: see :func:`install`."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    qexp_forward: ForwardProduct
    qexp_backward: BackwardProduct

    @property
    def matrix(self) -> Tensor:
        """The weight as float32 [N, K], differentiable: ``Conv1D`` keeps it the other way round."""
        weight = self.weight.t() if isinstance(self, Conv1D) else self.weight
        return weight.float().contiguous()

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).float().contiguous()
        y: Tensor = _Linear.apply(rows, self.matrix, self.bias, self)  # type: ignore[no-untyped-call]
        return y.to(x.dtype).view(*x.shape[:-1], y.shape[-1])


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, layer: FixedPointLinear) -> Tensor:
        y, kept = layer.qexp_forward(x, weight, bias)
        ctx.layer, ctx.kept = layer, kept
        return y  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        wanted = tuple(ctx.needs_input_grad[:3])
        return (*ctx.layer.qexp_backward(gradient.float().contiguous(), ctx.kept, wanted), None)


def install(network: nn.Module, arithmetic: Arithmetic, chosen: Callable[[str], bool]) -> tuple[str, ...]:
    """Let every linear layer (``nn.Linear``, ``Conv1D``) with a chosen name compute so, in place; their names."""
    refuse_unit_scaled(network, "integer arithmetic")
    names = tuple(name for name, layer in network.named_modules() if isinstance(layer, nn.Linear | Conv1D))
    names = tuple(name for name in names if chosen(name))
    for name in names:
        layer = network.get_submodule(name)
        swap_class(layer, FixedPointLinear)
        layer.add_module(FORWARD, ForwardProduct(name, arithmetic))
        layer.add_module(BACKWARD, BackwardProduct(name, arithmetic))
    return names


def freeze(network: nn.Module, backend: str) -> None:
    """Make the layers of a network that will not be trained any more fast: weights mapped and packed once."""
    for _, layer in fixed_point_layers(network):
        with torch.no_grad():
            layer.qexp_forward.freeze(layer.matrix, backend)


def remove(network: nn.Module) -> None:
    """Make ordinary float layers of all of them again, in place."""
    for _, layer in list(fixed_point_layers(network)):
        restore_class(layer, FixedPointLinear)
        for name in (FORWARD, BACKWARD):
            delattr(layer, name)


def fixed_point_layers(network: nn.Module) -> Iterator[tuple[str, FixedPointLinear]]:
    """The layers of a network that compute in fixed point, by name, in its order."""
    return ((name, layer) for name, layer in network.named_modules() if isinstance(layer, FixedPointLinear))


def seed_for(rounding: str) -> int:
    """A fresh seed where one is needed; nearest rounding leaves torch's generator as it is."""
    return fresh_seed() if rounding == "stochastic" else 0


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Say in whose tensor NaN or infinity was found."""
    try:
        yield
    except NotFiniteError:
        raise NotFiniteError(f"NaN or infinity in {what}") from None
