"""Training formats: where a network multiplies, and what every precision has in common.

A precision is put into a network for as long as it trains or is evaluated, and taken away again: parameters keep their
place, their names and float32.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from transformers.pytorch_utils import Conv1D

from qexp.conf.errors import UserError
from qexp.conf.schema import TrainConfig
from qexp.kernels.formats import Format, Rounding, overflow_fraction, underflow_fraction
from qexp.kernels.fp8 import FP8
from qexp.models.attention import NAME, Operands, Tap
from qexp.models.certificate import Recorder

GRADIENT = ".gradient"
"""Ending of the name of a gradient in a :class:`Tally`."""


@dataclass(frozen=True)
class Product:
    """A place of the network where activations are multiplied: a linear layer, a convolution, an attention."""

    name: str
    kind: str
    module: nn.Module


def products(network: nn.Module) -> list[Product]:
    """Every linear layer (``nn.Linear``, ``Conv1D``, unit-scaled ones), convolution and attention, in order.

    Attention is a module with :class:`~qexp.models.attention.Operands` as ``operands`` before both its products, and a
    :class:`~qexp.models.attention.Tap` as ``product`` behind them.
    """
    named = ((name.removesuffix(f".{NAME}"), _kind(module), module) for name, module in network.named_modules())
    return [Product(name, kind, module) for name, kind, module in named if kind]


def _kind(module: nn.Module) -> str:
    if isinstance(module, nn.Linear | Conv1D):
        return "linear"
    if isinstance(module, _ConvNd):
        return "convolution"
    ends = getattr(module, "operands", None), getattr(module, "product", None)
    return "attention" if isinstance(ends[0], Operands) and isinstance(ends[1], Tap) else ""


class Tally:
    """Shares of elements that a format loses, by tensor; taken while ``open``."""

    def __init__(self) -> None:
        self.open = False
        self._sums: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0, 0.0])

    def restart(self, open: bool) -> None:
        """Forget all where a new tally begins; keep the last one otherwise."""
        self.open = open
        if open:
            self._sums.clear()

    def add(self, name: str, x: Tensor, format: Format) -> None:
        """Count in a tensor that is about to be rounded."""
        if not self.open:
            return
        sums, nonzero = self._sums[name], int(torch.count_nonzero(x))
        lost, beyond = float(underflow_fraction(x, format)) * nonzero, float(overflow_fraction(x, format)) * x.numel()
        for place, value in enumerate((lost, nonzero, beyond, x.numel())):
            sums[place] += value

    def shares(self) -> dict[str, dict[str, float]]:
        """Tensor -> ``underflow``, of its non-zero elements, and ``overflow``, of all."""
        return {
            name: {"underflow": lost / max(nonzero, 1.0), "overflow": beyond / max(total, 1.0)}
            for name, (lost, nonzero, beyond, total) in self._sums.items()
        }

    def gradient_underflow(self) -> float:
        """Share of all gradients' non-zero elements that round to zero."""
        gradients = [sums for name, sums in self._sums.items() if name.endswith(GRADIENT)]
        return sum(sums[0] for sums in gradients) / max(sum(sums[1] for sums in gradients), 1.0)


class Precision:
    """What a number format does to a network. Subclasses say how."""

    name: str
    """As in ``train.precision``, and as the setting under which a record has its figures."""

    def __init__(self) -> None:
        self.tally = Tally()

    @contextmanager
    def installed(self, network: nn.Module) -> Iterator[None]:
        """``network`` in this precision, for the length of the block.

        Raises ``UserError`` if nothing in it is multiplied: its figures would be those of float32.
        """
        found = products(network)
        if not found:
            raise UserError(f"train.precision={self.name} found no linear layer, convolution or attention to change")
        try:
            self._install(network, found)
            yield
        finally:
            self._remove(network, found)

    def running(self) -> AbstractContextManager[Any]:
        """What must hold around every forward and backward pass."""
        return nullcontext()

    def after_step(self, optimizer: torch.optim.Optimizer, loss_scale: float) -> None:
        """What the format does to weights and optimizer state after an optimizer step."""

    @property
    def executes(self) -> bool:
        """Whether something is claimed that only a :class:`~qexp.models.certificate.Recorder` can prove."""
        return False

    def certificate(self, recorder: Recorder) -> dict[str, Any]:
        """What was really computed, and how, since the precision was installed: ``recorder`` saw a training step.

        Raises ``RunError`` for a claim that does not hold. A recorder is asked for only where something is executed.
        """
        raise NotImplementedError

    def _install(self, network: nn.Module, found: list[Product]) -> None:
        raise NotImplementedError

    def _remove(self, network: nn.Module, found: list[Product]) -> None:
        raise NotImplementedError


def make_precision(cfg: TrainConfig, rounding: Rounding | None = None) -> Precision | None:
    """The precision of a training recipe, None for float32. ``rounding`` is another one than the recipe's.

    Raises ``ValueError`` where the recipe's rounding is not settled (:mod:`qexp.runner.precision_choice`).
    """
    from qexp.models.fp8 import Fp8
    from qexp.models.half_precision import HALVES, HalfPrecision

    if cfg.precision == "fp32":
        return None
    chosen = rounding or cfg.rounding
    if chosen is None:
        raise ValueError("train.rounding is not settled")
    if cfg.precision == "fp8":
        formats = FP8[cfg.fp8_formats]
        return Fp8(formats.overflowing if cfg.loss_scale == "dynamic" else formats, chosen)
    return HalfPrecision(HALVES[cfg.precision], chosen)
