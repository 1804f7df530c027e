"""What a method is: the points of an experiment at which it may act. ``BaseMethod`` does nothing at each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from qexp.conf.schema import QuantConfig
from qexp.methods import registry
from qexp.models.certificate import Recorder
from qexp.models.sites import AdaptedModel

Batch = Mapping[str, Tensor]
Report = Callable[[int, int], None]
"""Told how many parts of how many are done, by what takes long."""


def untold(done: int, total: int) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class SiteChange:
    """One place that a method changed: which, and what stands there now."""

    site: str
    change: str


@dataclass(frozen=True)
class Surgery:
    """Everything a method changed before training. Empty is an error unless the method says so (``vanilla``)."""

    replaced: tuple[SiteChange, ...] = ()


@dataclass(frozen=True)
class Context:
    """What a method may know of the run it acts in."""

    max_length: int
    """The configured sequence length T."""
    pretrained: bool
    """Whether the weights are trained ones."""
    quant: QuantConfig = field(default_factory=lambda: QuantConfig("none", bits=()))
    """The run's quantizers: for methods that quantize in training."""
    max_steps: int = 0
    """Steps of training to come."""
    dropout: float | None = None
    """What training sets every dropout to; null leaves the model's own."""


@dataclass(frozen=True)
class ParameterRule:
    """Optimizer settings for parameters whose name contains ``match``: a factor on the learning rate, and the decay."""

    match: str
    lr_factor: float = 1.0
    weight_decay: float | None = None


@dataclass(frozen=True)
class Execution:
    """A network as its method computes it. ``certify`` makes a certificate of what a recorder saw of it; where that
    lists no integer products, the figures are simulated ones."""

    module: nn.Module
    certify: Callable[[Recorder], dict[str, Any]]


class BaseMethod:
    """Identity at every point. A method's ``Settings`` are in ``methods/<name>/settings.py``, without torch."""

    name: ClassVar[str]
    paper: ClassVar[str | None] = None
    """arXiv id."""
    shows_ptq: ClassVar[bool] = False
    """Whether a run also evaluates plain post-training quantization of its network, for comparison."""
    needs_no_loss_scale: ClassVar[bool] = False
    """Whether gradients fit a narrow format without one, so that who asks for one is told."""
    scores_every_position: ClassVar[bool] = False
    """Whether its loss needs the logits of positions that predict nothing, where a masked language model can do
    without."""
    changes_nothing: ClassVar[bool] = False
    """True only for a baseline: an empty :class:`Surgery` is then allowed."""

    def __init__(self, settings: Any):
        self.settings = settings

    @property
    def acts_in_training(self) -> bool:
        """False where the network is trained as without the method: it then shares the trained network of others."""
        return registry.acts_in_training(self.settings)

    def prepare(self, model: AdaptedModel, context: Context) -> Surgery:
        """Before training: swap attention parts, insert quantizers, install scales."""
        return Surgery()

    def begin(self, model: AdaptedModel) -> dict[str, Any]:
        """On the weights that training starts from, even where it goes on from a checkpoint: choose by them.

        What the method tells of them is kept with the trained network, and :meth:`analyse` gets it as ``before``.
        """
        return {}

    def calibrate(self, model: AdaptedModel, batches: Iterable[Batch], report: Report = untold) -> dict[str, Any]:
        """After ``begin``, on calibration inputs: find ranges, fit scales. Left out where training goes on from a
        checkpoint, which holds what was found. What it tells is kept as what ``begin`` does."""
        return {}

    def parameter_rules(self) -> tuple[ParameterRule, ...]:
        return ()

    def extra_loss(self, model: AdaptedModel) -> Tensor:
        """Scalar added to the task loss of a step; called after the forward pass."""
        return torch.zeros((), device=next(model.module.parameters()).device)

    def after_step(self, model: AdaptedModel, step: int) -> None:
        return None

    def certify_step(self, model: AdaptedModel, recorder: Recorder) -> dict[str, Any]:
        """The certificate of a training step that ``recorder`` saw, forward and backward, for who claims something.

        Raises ``RunError`` for a claim that does not hold.
        """
        raise NotImplementedError

    def finish(self, model: AdaptedModel) -> None:
        """After training: take away what is no part of the network to be evaluated."""
        return None

    def strip(self, model: AdaptedModel) -> None:
        """Take away what only ``convert`` needs of a finished network: what is left is the form that it quantizes."""
        return None

    def execute(self, model: AdaptedModel, backend: str) -> Execution | None:
        """A copy of the network in the method's own arithmetic, evaluated beside the float network; None for none.

        ``backend`` is of ``kernels.int8``.
        """
        return None

    def analyse(self, model: AdaptedModel, batches: Iterable[Batch], before: Mapping[str, Any]) -> dict[str, Any]:
        """What the method measures of the trained float network on evaluation inputs: the record's ``analysis``."""
        return {}

    def convert(self, model: AdaptedModel, spec: QuantConfig, bits: str, batches: Iterable[Batch]) -> nn.Module:
        """The network evaluated as ``bits`` (``"w8a8"``): by default post-training quantization at every site.

        ``batches`` are calibration inputs. ``model`` itself stays as it is.
        """
        from qexp.models.quantization import quantize_model

        return quantize_model(model, spec, bits, batches)
