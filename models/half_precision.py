"""FP16 and BF16 in a network as the authors of unit scaling trained (arXiv 2303.11257, notes 1.7), simulated.

Weights, activations, gradients and the optimizer's first moment are numbers of the format: every operation computes in
float32 and rounds what it returns. In float32 stay normalisations, rotary positions, the loss, and the optimizer's
arithmetic and second moment. Weights are rounded after every step, stochastically by default: around 1 the numbers of
FP16 are 2^-10 apart, and nearest rounding would drop all smaller updates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

from qexp.kernels.formats import BF16, FP16, Format, Rounding, cast
from qexp.models.certificate import Recorder, operation
from qexp.models.float32_islands import insert_islands, remove_islands
from qexp.models.precision import GRADIENT, Precision, Product, Tally

HALVES = {"fp16": FP16, "bf16": BF16}
_DTYPES = {FP16: torch.float16, BF16: torch.bfloat16}
IN_FLOAT32 = frozenset(
    f"aten::{name}"
    for name in ("_log_softmax", "_log_softmax_backward_data", "nll_loss_forward", "nll_loss_backward")
    + ("nll_loss2d_forward", "nll_loss2d_backward", "mse_loss", "mse_loss_backward")
)
"""The loss and its gradient, until that leaves the loss: it is rounded where it arrives at the last product."""
MASK = -3e4
"""What attention adds where a position does not count (the authors'); float32's smallest number would be -infinity."""
FIRST_MOMENTS = ("exp_avg", "momentum_buffer")


class RoundedOperations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its methods untyped
    """Rounds the float32 results of every operation in its ``with`` block, except scalars and the loss."""

    def __init__(self, format: Format, tally: Tally):
        super().__init__()  # type: ignore[no-untyped-call]
        self.format, self.tally = format, tally
        self.rounded: Counter[str] = Counter()
        self.in_float32: Counter[str] = Counter()
        self.behind = ""
        """In the backward pass: the product whose output's gradient was the last to arrive."""
        self._paused = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self._paused or (name := operation(func)) is None:
            return result
        if name in IN_FLOAT32:
            self.in_float32[name] += 1
            return result
        if name == "aten::where":
            result = result.clamp_(min=MASK) if result.is_floating_point() else result
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor) and tensor.dtype == torch.float32 and tensor.dim():
                self.rounded[name] += 1
                self.round_(tensor)
        return result

    def round_(self, x: Tensor) -> Tensor:
        """x, float32, overwritten by the nearest numbers of the format."""
        if self.behind:
            self.tally.add(self.behind + GRADIENT, x, self.format)
        return x.copy_(x.to(_DTYPES[self.format]))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Round nothing for the length of the block."""
        self._paused += 1
        try:
            yield
        finally:
            self._paused -= 1


class HalfPrecision(Precision):
    """``rounding`` is that of the weights after an optimizer step; operations round to nearest."""

    def __init__(self, format: Format, rounding: Rounding):
        super().__init__()
        self.name, self.format, self.rounding = format.name, format, rounding
        self.mode = RoundedOperations(format, self.tally)
        self._handles: list[RemovableHandle] = []
        self._parameters: list[nn.Parameter] = []
        self._products: list[Product] = []
        self._islands: tuple[str, ...] = ()

    @contextmanager
    def running(self) -> Iterator[None]:
        # The fused kernel of attention would keep scores and probabilities in float32.
        self.mode.behind = ""
        with sdpa_kernel(SDPBackend.MATH), self.mode:
            yield

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer, loss_scale: float) -> None:
        """Round the weights, and the first moments in units of the scaled loss, as the authors' Adam has them."""
        self._round_weights(self.rounding)
        saturating = replace(self.format, saturate=True)
        for state in optimizer.state.values():
            for moment in (state[name] for name in FIRST_MOMENTS if state.get(name) is not None):
                moment.copy_(cast(moment * loss_scale, saturating) / loss_scale)

    def certificate(self, recorder: Recorder) -> dict[str, Any]:
        return {
            "formats": {"operations": self.format.name, "weights": self.format.name},
            "rounding": self.rounding,
            "products": [
                {"name": p.name, "kind": p.kind, "executed": False, "why": "simulated"} for p in self._products
            ],
            "rounded": dict(self.mode.rounded.most_common()),
            "in_float32": [*self.mode.in_float32, *self._islands],
        }

    def _install(self, network: nn.Module, found: list[Product]) -> None:
        self._parameters = [p for p in network.parameters() if p.is_floating_point()]
        self._products = found
        self._round_weights("nearest")
        for product in found:
            # What comes out of attention goes into a product, whose gradient is no result of the loss.
            if product.kind != "attention":
                self._handles.append(product.module.register_forward_hook(self._hook(product.name)))
        self._islands = insert_islands(network, self.mode)

    def _remove(self, network: nn.Module, found: list[Product]) -> None:
        remove_islands(network)
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _hook(self, name: str) -> Any:
        def hook(_: nn.Module, args: Any, output: Tensor) -> Tensor:
            result: Tensor = _Arriving.apply(output, name, self.mode)  # type: ignore[no-untyped-call]
            return result

        return hook

    @torch.no_grad()
    def _round_weights(self, rounding: Rounding) -> None:
        for parameter in self._parameters:
            parameter.copy_(cast(parameter, self.format, rounding))


class _Arriving(torch.autograd.Function):
    """Identity whose gradient is rounded, and says behind which product the backward pass now is."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, name: str, mode: RoundedOperations) -> Tensor:
        ctx.name, ctx.mode = name, mode
        return y.view_as(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        ctx.mode.behind = ctx.name
        with ctx.mode.paused():
            return ctx.mode.round_(gradient.clone()), None, None
