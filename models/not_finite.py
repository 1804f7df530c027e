"""Which tensor of a training step is the first that is NaN or infinite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


def first_not_finite(network: nn.Module, step: Callable[[], object]) -> str | None:
    """The name, as of a sentence, of the first tensor of ``step`` (a forward and a backward pass) that is not finite.

    Looked at in the order of their making: weights, what modules return, the gradients of that, and of parameters. None
    where all is finite.
    """
    if (weight := _first(network.named_parameters(), "the weight")) is not None:
        return weight
    found: list[str] = []
    handles = [module.register_forward_hook(_hook(name, found)) for name, module in network.named_modules() if name]
    try:
        step()
    finally:
        for handle in handles:
            handle.remove()
    gradients = ((name, p.grad) for name, p in network.named_parameters() if p.grad is not None)
    return found[0] if found else _first(gradients, "the gradient of the parameter")


def _hook(name: str, found: list[str]) -> Callable[[nn.Module, Any, Any], None]:
    def look(what: str, x: Tensor) -> None:
        if not found and not bool(torch.isfinite(x).all()):
            found.append(what)

    def hook(_: nn.Module, args: Any, output: Any) -> None:
        for tensor in _floats(output):
            look(f"the output of {name}", tensor)
            if tensor.requires_grad:
                tensor.register_hook(  # type: ignore[no-untyped-call]
                    lambda gradient: look(f"the gradient of the output of {name}", gradient)
                )

    return hook


def _floats(output: Any) -> Iterator[Tensor]:
    """The floating-point tensors of what a module returned."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, tuple | list):
        for item in output:
            yield from _floats(item)


def _first(named: Any, what: str) -> str | None:
    return next((f"{what} {name}" for name, x in named if not bool(torch.isfinite(x).all())), None)
