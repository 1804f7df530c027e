"""FP8 in a network: operands of products in E4, gradients arriving at their outputs in E5, sums in float32.

Simulated, the numbers are rounded and multiplied in float32. Where the device multiplies 8-bit floats, linear layers
really do (:mod:`qexp.models.fp8_execution`). Weights and optimizer stay in float32 (arXiv 2303.11257, notes 1.7).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from qexp.kernels.formats import Rounding, cast, cast_forward
from qexp.kernels.fp8 import Fp8Formats, why_simulated
from qexp.models.adapters._common import restore_class, swap_class
from qexp.models.certificate import Recorder
from qexp.models.fp8_execution import ExecutedLinear, execute, prove, retire, why_not
from qexp.models.precision import GRADIENT, Precision, Product, Tally


class Casts:
    """The casts of one product: what they are, and how often they were made."""

    def __init__(self, name: str, formats: Fp8Formats, rounding: Rounding, tally: Tally):
        self.name, self.formats, self.rounding, self.tally = name, formats, rounding, tally
        self.calls: Counter[str] = Counter()

    def seen(self, x: Tensor, what: str) -> Tensor:
        """x itself, counted: an operand that is about to be cast, and ``what`` it is within the product."""
        self.calls["operands"] += 1
        self.tally.add(f"{self.name}.{what}", x, self.formats.operand)
        return x

    def seen_gradient(self, gradient: Tensor) -> Tensor:
        """The same of a gradient that arrives at the output."""
        self.calls["gradients"] += 1
        self.tally.add(self.name + GRADIENT, gradient, self.formats.gradient)
        return gradient

    def operand(self, x: Tensor, what: str) -> Tensor:
        """x in E4, straight through."""
        return cast_forward(self.seen(x, what), self.formats.operand, self.rounding)

    def output(self, y: Tensor) -> Tensor:
        """y itself, whose gradient is cast on its way back."""
        result: Tensor = _Arriving.apply(y, self)  # type: ignore[no-untyped-call]
        return result


class _Arriving(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, casts: Casts) -> Tensor:
        ctx.casts = casts
        return y.view_as(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        casts = ctx.casts
        return cast(casts.seen_gradient(gradient), casts.formats.gradient, casts.rounding), None


class CastProduct(nn.Module):
    """Mixin: the layer's own forward pass, with its input, its weight and its output's gradient cast."""

    qexp_casts: Casts

    def forward(self, input: Tensor) -> Tensor:
        weight = self._parameters["weight"]
        assert weight is not None
        self._parameters["weight"] = self.qexp_casts.operand(weight, "weight")  # type: ignore[assignment]
        try:
            return self.qexp_casts.output(super().forward(self.qexp_casts.operand(input, "input")))
        finally:
            self._parameters["weight"] = weight


class CastOperands(nn.Module):
    """Mixin for :class:`~qexp.models.attention.Operands`: query, key and value cast."""

    qexp_casts: Casts

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        cast_one = self.qexp_casts.operand
        return cast_one(query, "query"), cast_one(key, "key"), cast_one(value, "value")


class CastOutput(nn.Module):
    """Mixin for the tap ``product`` of attention: its gradient cast."""

    qexp_casts: Casts

    def forward(self, x: Tensor) -> Tensor:
        return self.qexp_casts.output(x)


class Fp8(Precision):
    """``executed``: None multiplies 8-bit floats where the device can."""

    name = "fp8"

    def __init__(self, formats: Fp8Formats, rounding: Rounding, executed: bool | None = None):
        super().__init__()
        self.formats, self.rounding, self.executed = formats, rounding, executed
        self._made: list[tuple[Product, Casts, str]] = []
        """Of each product why it is simulated; empty for executed ones."""

    def _install(self, network: nn.Module, found: list[Product]) -> None:
        device = next(network.parameters()).device
        missing = "" if self.executed else why_simulated(device, self.formats)
        if self.executed is False:
            missing = "asked for"
        for product in found:
            casts = Casts(product.name, self.formats, self.rounding, self.tally)
            why = missing or why_not(product.kind, product.module)
            self._made.append((product, casts, why))
            for module, mixin in _places(product, executed=not why):
                swap_class(module, mixin)
                module.qexp_casts = casts  # type: ignore[assignment]
                if mixin is ExecutedLinear:
                    execute(module)

    def _remove(self, network: nn.Module, found: list[Product]) -> None:
        for product, _, why in self._made:
            for module, mixin in _places(product, executed=not why):
                restore_class(module, mixin)
                vars(module).pop("qexp_casts", None)
                if mixin is ExecutedLinear:
                    retire(module)
        self._made.clear()

    @property
    def executes(self) -> bool:
        return any(not why for _, _, why in self._made)

    def certificate(self, recorder: Recorder) -> dict[str, Any]:
        ran = [(product, casts, why) for product, casts, why in self._made if casts.calls]
        return {
            "formats": {"operands": self.formats.operand.name, "gradients": self.formats.gradient.name},
            "rounding": self.rounding,
            "products": [_entry(product, casts, why, recorder) for product, casts, why in ran],
        }


def _entry(product: Product, casts: Casts, why: str, recorder: Recorder) -> dict[str, Any]:
    how = (
        {"executed": False, "why": why} if why else {"executed": True, **prove(product.name, product.module, recorder)}
    )
    return {"name": product.name, "kind": product.kind, "casts": dict(casts.calls), **how}


def _places(product: Product, executed: bool) -> list[tuple[nn.Module, type[nn.Module]]]:
    """The modules that change, and into what."""
    if product.kind == "attention":
        ends = ((product.module.operands, CastOperands), (product.module.product, CastOutput))
        return ends  # type: ignore[return-value]  # nn.Module.__getattr__ is typed as Tensor | Module
    return [(product.module, ExecutedLinear if executed else CastProduct)]
