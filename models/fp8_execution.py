"""Linear layers that really multiply 8-bit floats, forward and backward, with float32 master weights.

Only the layer's ``forward`` is another one. What its two passes multiply happens inside two submodules, so that a
recorder of what torch dispatches can tell a layer's products from all else.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from qexp.conf.errors import RunError
from qexp.kernels.fp8 import TILE, codes, scaled_product, whole_tiles
from qexp.kernels.unit_scaling import modules
from qexp.models.certificate import Recorder, Seen
from qexp.models.unit_scaled import layers

if TYPE_CHECKING:
    from qexp.models.fp8 import Casts

FORWARD, BACKWARD = "qexp_fp8_forward", "qexp_fp8_backward"
SCALED_MM = "aten::_scaled_mm"
UNIT_SCALED = (modules.Linear, modules.LinearReadout, layers.Conv1D)
Wanted = tuple[bool, bool, bool]
"""Which gradients are asked for: of the input, the weight and the bias."""


class ForwardProduct(nn.Module):
    """alpha x w^T + b [M, N] and the codes of x [M, K] and w [N, K]."""

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None, casts: Casts, alpha: float) -> Any:
        operand = casts.formats.operand
        kept = tuple(
            codes(casts.seen(t, what), operand, casts.rounding)
            for t, what in ((whole_tiles(x), "input"), (weight, "weight"))
        )
        y = scaled_product(kept[0], kept[1].t(), alpha)[: len(x)]
        return (y if bias is None else y + bias), kept


class BackwardProduct(nn.Module):
    """dx [M, K], dw [N, K] and db [N], as far as they are wanted."""

    def forward(
        self, gradient: Tensor, kept: tuple[Tensor, Tensor], wanted: Wanted, casts: Casts, beta: float, beta_w: float
    ) -> tuple[Tensor | None, ...]:
        x, weight = kept
        g = codes(casts.seen_gradient(whole_tiles(gradient)), casts.formats.gradient, casts.rounding)
        return (
            scaled_product(g, weight, beta)[: len(gradient)] if wanted[0] else None,
            scaled_product(g.t(), x, beta_w) if wanted[1] else None,
            g.float().sum(0) * beta_w if wanted[2] else None,
        )


class ExecutedLinear(nn.Module):
    """Mixin for ``nn.Linear``, ``Conv1D`` and unit-scaled linear layers."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    qexp_casts: Casts
    qexp_fp8_forward: ForwardProduct
    qexp_fp8_backward: BackwardProduct

    def forward(self, input: Tensor) -> Tensor:
        rows = input.reshape(-1, input.shape[-1])
        matrix = self.weight.t() if isinstance(self, Conv1D) else self.weight
        y: Tensor = _Linear.apply(rows, matrix, self.bias, self)  # type: ignore[no-untyped-call]
        return y.view(*input.shape[:-1], y.shape[-1])


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, layer: ExecutedLinear) -> Tensor:
        alpha, *ctx.betas = _factors(layer, len(x))
        y, ctx.kept = layer.qexp_fp8_forward(x, weight, bias, layer.qexp_casts, alpha)
        ctx.layer = layer
        return y  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        layer, wanted = ctx.layer, tuple(ctx.needs_input_grad[:3])
        return (*layer.qexp_fp8_backward(gradient, ctx.kept, wanted, layer.qexp_casts, *ctx.betas), None)


def _factors(layer: nn.Module, rows: int) -> tuple[float, float, float]:
    """alpha of the output, beta of the input, beta of weight and bias."""
    return layer.factors(rows) if isinstance(layer, UNIT_SCALED) else (1.0, 1.0, 1.0)


def why_not(kind: str, module: nn.Module) -> str:
    """Why a product is not executed where others are; empty if it is."""
    if kind != "linear":
        return f"{kind} is multiplied in float32"
    if type(module) not in (nn.Linear, Conv1D, *UNIT_SCALED):
        return f"a {type(module).__name__} is more than a linear layer"
    shape = tuple(module.weight.shape)  # type: ignore[arg-type]
    return f"its shape {shape} is no multiple of {TILE}" if any(size % TILE for size in shape) else ""


def execute(layer: nn.Module) -> None:
    """Give a layer the parts in which it multiplies."""
    layer.add_module(FORWARD, ForwardProduct())
    layer.add_module(BACKWARD, BackwardProduct())


def retire(layer: nn.Module) -> None:
    """Undo :func:`execute`."""
    delattr(layer, FORWARD)
    delattr(layer, BACKWARD)


def prove(name: str, layer: nn.Module, recorder: Recorder) -> dict[str, int]:
    """Pass -> number of products of 8-bit floats that ``recorder`` saw in an executed layer.

    Raises ``RunError`` if there were none forward, or other products of floats in any of its passes.
    """
    found = {}
    for which, part in (("forward", FORWARD), ("backward", BACKWARD)):
        seen = recorder.seen.get(getattr(layer, part), Counter())
        others = [one.op for one in [*seen, *recorder.seen.get(layer, ())] if _is_other_product(one)]
        if others:
            raise RunError(f"{name} is claimed to multiply 8-bit floats, but {others[0]} multiplied others in it")
        found[which] = sum(calls for one, calls in seen.items() if one.op == SCALED_MM)
    if not found["forward"]:
        raise RunError(f"{name} is claimed to multiply 8-bit floats, but no such product was seen in it")
    return found


def _is_other_product(one: Seen) -> bool:
    return one.is_float_product and one.op != SCALED_MM
