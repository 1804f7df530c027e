"""From a trained network to figures: in floating point, in its own arithmetic, and in every quantizer setting."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from qexp.conf.errors import RunError, UserError
from qexp.kernels.fixed_point.mapping import NotFiniteError
from qexp.methods.base import BaseMethod
from qexp.models.certificate import Recorder
from qexp.models.precision import Precision, make_precision
from qexp.models.quantization import quantize_model
from qexp.results.outcomes import Sets
from qexp.results.schema import ON, Metric
from qexp.runner.batches import calibration_batches
from qexp.runner.bench import Bench

if TYPE_CHECKING:
    from qexp.runner.tasks import Task


@dataclass(frozen=True)
class Evaluated:
    """The metrics of a network, and what every example contributed to them."""

    metrics: dict[str, Metric]
    outcomes: Sets

    def __or__(self, other: Evaluated) -> Evaluated:
        """On further sets too."""
        return Evaluated(self.metrics | other.metrics, {**self.outcomes, **other.outcomes})


def quantized_network(bench: Bench, bits: str, plain: bool = False) -> torch.nn.Module:
    """A copy of the network, calibrated and converted to ``bits``, that simulates integers in floating point.

    ``plain``: by post-training quantization, whatever the methods do.
    """
    batches = calibration_batches(bench.cfg.quant.calibration, bench.task, bench.device)
    with bench.phase(f"calibrating {bits}", batches) as seen:
        convert = quantize_model if plain else converter(bench.methods).convert
        return convert(bench.trained.model, bench.cfg.quant, bits, seen)


def evaluate_network(bench: Bench, name: str, network: torch.nn.Module) -> Evaluated:
    """``network`` on the task and on the further sets; ``name`` is what the phase is called meanwhile."""
    return evaluate_task(bench, name, network) | evaluate_ood(bench, name, network)


def evaluate_task(bench: Bench, name: str, network: torch.nn.Module, task: Task | None = None) -> Evaluated:
    """``network`` on the bench's task, or on another one."""
    with bench.unsized_phase(name):
        measure = (task or bench.task).measure
        return Evaluated(*measure(network, bench.cfg.eval.batch_size, bench.device, bench.progress.advance))


def evaluate_ood(bench: Bench, name: str, network: torch.nn.Module) -> Evaluated:
    """The same metrics on the further sets, as ``perplexity@NAME``."""
    found = Evaluated({}, {})
    for other in bench.task.ood:
        one = evaluate_task(bench, f"{name} on {other.name}", network, other)
        ending = f"{ON}{other.name}"
        metrics = {f"{metric}{ending}": value for metric, value in one.metrics.items()}
        found |= Evaluated(metrics, {f"{kind}{ending}": values for kind, values in one.outcomes.items()})
    return found


def own_arithmetic(bench: Bench) -> tuple[Evaluated, dict[str, Any]] | None:
    """Figures and certificate of the network as its method computes it; None where no method has its own arithmetic.

    Raises:
        UserError: if two have. RunError: for NaN or infinity, or if a claim of integers does not hold.
    """
    own = [method for method in bench.methods if type(method).execute is not BaseMethod.execute]
    if len(own) > 1:
        raise UserError(f"methods {_names(own)} each compute the network in their own way; choose one")
    execution = own[0].execute(bench.trained.model, bench.cfg.kernels.int8) if own else None
    if execution is None:
        return None
    watched, name = Watched(execution.module), f"executing {own[0].name}"
    try:
        found = evaluate_task(bench, name, watched) | evaluate_ood(bench, name, execution.module)
    except NotFiniteError as error:
        raise RunError(str(error)) from error
    return found, execution.certify(watched.recorder)


def low_precision(bench: Bench) -> Evaluated:
    """The network in the format that it was trained in, rounded to nearest."""
    precision = make_precision(bench.cfg.train, rounding="nearest")
    assert precision is not None, "fp32 is the float network"
    network = copy.deepcopy(bench.network).eval()
    with precision.installed(network):
        return evaluate_network(bench, f"evaluating {precision.name}", Running(network, precision))


class Running(torch.nn.Module):
    """A network whose forward passes are in a precision."""

    def __init__(self, network: torch.nn.Module, precision: Precision):
        super().__init__()
        self.network, self.precision = network, precision

    def forward(self, **inputs: torch.Tensor) -> Any:
        with self.precision.running():
            return self.network(**inputs)


class Watched(torch.nn.Module):
    """A network with a recorder of all that it dispatches."""

    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.network, self.recorder = network, Recorder()

    def forward(self, **inputs: torch.Tensor) -> Any:
        with self.recorder:
            return self.network(**inputs)


def converter(methods: tuple[BaseMethod, ...]) -> BaseMethod:
    """The one method that converts in its own way, or the first, whose conversion is then the default."""
    own = [method for method in methods if type(method).convert is not BaseMethod.convert]
    if len(own) > 1:
        raise UserError(f"methods {_names(own)} both convert the model; choose one")
    return (own or list(methods))[0]


def _names(methods: list[BaseMethod]) -> str:
    return " and ".join(method.name for method in methods)
