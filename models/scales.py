"""Per-channel scales alpha = exp(a) in a network that is trained, living where they fold.

Nothing is multiplied in the activations: each layer in front of a scaled tensor and behind it computes with the weights
that it will have once alpha is folded, so that quantizers of weights and activations see what deployment sees. The
weights themselves stay as they are (arXiv 2211.16912).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from qexp.models.adapters._common import restore_class, swap_class
from qexp.models.folding import Scaling, fold, scale_output, unscale_input
from qexp.models.sites import AdaptedModel

LOG_SCALES = "quadapter_log_scales"
"""Name of the network's submodule that holds them."""


class LogScales(nn.Module):
    """One parameter a [channels] for each scaling, all zero at first: alpha = 1."""

    def __init__(self, scalings: Sequence[Scaling]):
        super().__init__()
        self.values = nn.ParameterList([nn.Parameter(torch.zeros(scaling.channels)) for scaling in scalings])

    def alpha(self, index: int) -> Tensor:
        value: Tensor = self.values[index]
        return value.exp()


class ScaledWeight(nn.Module):
    """Mixin: the module's own forward pass, with weight and bias as they will be once alpha is folded."""

    rescalings: list[Any]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        kept = self._parameters["weight"], self._parameters.get("bias")
        weight, bias = kept
        for rescale in self.rescalings:
            weight, bias = rescale(weight, bias)
        self._put(weight, bias)
        try:
            return super().forward(*args, **kwargs)
        finally:
            self._put(*kept)

    def _put(self, weight: Any, bias: Any) -> None:
        self._parameters["weight"] = weight
        if bias is not None:
            self._parameters["bias"] = bias


def install(model: AdaptedModel, scalings: Sequence[Scaling]) -> LogScales:
    """Give the network scales at ``scalings``. Quantizers that train stand already: they see the scaled weights."""
    device = next(model.module.parameters()).device
    scales = LogScales(scalings).to(device)
    model.module.add_module(LOG_SCALES, scales)
    for index, scaling in enumerate(scalings):
        _join(model.module, scaling.producer, partial(_multiplied, scales, index, scaling))
        for consumer in scaling.consumers:
            _join(model.module, consumer, partial(_divided, scales, index, scaling))
    return scales


def log_scales(model: AdaptedModel) -> LogScales:
    found = getattr(model.module, LOG_SCALES)
    assert isinstance(found, LogScales)
    return found


def rest(model: AdaptedModel) -> None:
    """Have the network compute with its own weights again. The scales stay, and are saved."""
    for module in _scaled(model):
        restore_class(module, ScaledWeight)
        del module.rescalings


def strip(model: AdaptedModel) -> None:
    """Remove the scales from a network at :func:`rest`."""
    delattr(model.module, LOG_SCALES)


def fold_all(network: nn.Module, scalings: Sequence[Scaling], scales: LogScales) -> None:
    """Fold every alpha of ``scales`` into the plain weights of ``network``, in the order of the scalings."""
    for index, scaling in enumerate(scalings):
        fold(network, scaling, scales.alpha(index).detach())


def _scaled(model: AdaptedModel) -> Iterator[Any]:
    return (module for module in list(model.module.modules()) if isinstance(module, ScaledWeight))


def _join(network: nn.Module, name: str, rescale: Any) -> None:
    module: Any = network.get_submodule(name)
    if not isinstance(module, ScaledWeight):
        swap_class(module, ScaledWeight)
        module.rescalings = []
    module.rescalings.append(partial(rescale, isinstance(module, Conv1D)))


def _multiplied(
    scales: LogScales, index: int, scaling: Scaling, conv1d: bool, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    return scale_output(weight, bias, scales.alpha(index), first_row=scaling.first_row, conv1d=conv1d)


def _divided(
    scales: LogScales, index: int, scaling: Scaling, conv1d: bool, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    return unscale_input(weight, scaling.at_input(scales.alpha(index)), conv1d=conv1d), bias
