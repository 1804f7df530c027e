"""Parts of a half-precision network that compute in float32 inside, and give back numbers of the format."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from qexp.models.adapters._common import restore_class, swap_class


class Rounding(Protocol):
    """What rounds a network's operations, and can pause."""

    def paused(self) -> AbstractContextManager[None]: ...

    def round_(self, x: Tensor) -> Tensor: ...


class NormIsland(nn.Module):
    """Mixin for normalisations: statistics in float32, forward and backward."""

    qexp_rounding: Rounding

    def forward(self, input: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return self.in_float32(input)
        result: Tensor = _Island.apply(self, input, *self.parameters(recurse=False))  # type: ignore[no-untyped-call]
        return result

    def in_float32(self, input: Tensor) -> Tensor:
        with self.qexp_rounding.paused():
            output: Tensor = super().forward(input)
            return self.qexp_rounding.round_(output.detach().clone())


class PositionIsland(nn.Module):
    """Mixin for rotary positions: angles in float32, sines and cosines rounded."""

    qexp_rounding: Rounding

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        with self.qexp_rounding.paused():
            return tuple(self.qexp_rounding.round_(t.detach().clone()) for t in super().forward(*args, **kwargs))


class _Island(torch.autograd.Function):
    """The module's own graph, kept apart from the one around it, so that its backward pass is float32 too."""

    @staticmethod
    def forward(ctx: Any, module: NormIsland, x: Tensor, *parameters: nn.Parameter) -> Tensor:
        ctx.rounding = module.qexp_rounding
        with ctx.rounding.paused(), torch.enable_grad():
            leaf = x.detach().requires_grad_()
            ctx.output = super(NormIsland, module).forward(leaf)
            ctx.inputs = (leaf, *(p for p in parameters if p.requires_grad))
            ctx.wanted = (True, *(p.requires_grad for p in parameters))
            return ctx.rounding.round_(ctx.output.detach().clone())  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        with ctx.rounding.paused():
            found = iter(torch.autograd.grad(ctx.output, ctx.inputs, gradient))
            rounded = tuple(ctx.rounding.round_(next(found).clone()) if wanted else None for wanted in ctx.wanted)
        return (None, *rounded)


MIXINS = {"Norm": NormIsland, "RotaryEmbedding": PositionIsland}
"""Ending of a class's name -> what its modules become."""


def insert_islands(network: nn.Module, rounding: Rounding) -> tuple[str, ...]:
    """Let every normalisation and every rotary embedding of a network be an island, in place; their names."""
    names = []
    for name, module in network.named_modules():
        for ending, mixin in MIXINS.items():
            if type(module).__name__.endswith(ending):
                swap_class(module, mixin)
                module.qexp_rounding = rounding
                names.append(name)
    return tuple(names)


def remove_islands(network: nn.Module) -> None:
    """Undo :func:`insert_islands`."""
    for module in network.modules():
        for mixin in MIXINS.values():
            restore_class(module, mixin)
        vars(module).pop("qexp_rounding", None)
