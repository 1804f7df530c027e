"""From a trained network to figures: float, outlier statistics, and every quantizer setting."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from qexp.conf.errors import RunError, UserError
from qexp.conf.schema import EvalConfig, ExperimentConfig
from qexp.kernels.fixed_point.mapping import NotFiniteError
from qexp.methods.base import BaseMethod, Batch
from qexp.models.certificate import Recorder
from qexp.models.precision import Precision, make_precision
from qexp.models.quantization import quantize_model
from qexp.models.statistics import measure_outliers
from qexp.results.outcomes import Sets
from qexp.results.schema import ON, Metric
from qexp.runner.batches import calibration_batches, inputs_of
from qexp.runner.trained import Trained

if TYPE_CHECKING:
    from qexp.runner.progress import ProgressReporter
    from qexp.runner.tasks import Task


@dataclass(frozen=True)
class Evaluated:
    """The metrics of a network, and what every example contributed to them."""

    metrics: dict[str, Metric]
    outcomes: Sets

    def __or__(self, other: Evaluated) -> Evaluated:
        """On further sets too."""
        return Evaluated(self.metrics | other.metrics, {**self.outcomes, **other.outcomes})


def quantized_network(
    cfg: ExperimentConfig,
    bits: str,
    trained: Trained,
    task: Task,
    device: torch.device,
    progress: ProgressReporter,
    plain: bool = False,
) -> torch.nn.Module:
    """A copy of the network, calibrated and converted to ``bits``, that simulates integers in floating point.

    ``plain``: by post-training quantization, whatever the methods do.
    """
    batches = calibration_batches(cfg.quant.calibration, task, device)
    with _phase(progress, f"calibrating {bits}", len(batches)):
        convert = quantize_model if plain else converter(trained).convert
        return convert(trained.model, cfg.quant, bits, _reporting(batches, progress))


def evaluate_network(
    name: str,
    cfg: EvalConfig,
    network: torch.nn.Module,
    task: Task,
    device: torch.device,
    progress: ProgressReporter,
) -> Evaluated:
    """``network`` on the task and on the further sets; ``name`` is what the phase is called meanwhile."""
    own = evaluate_task(name, cfg, network, task, device, progress)
    return own | evaluate_ood(name, cfg, network, task, device, progress)


def evaluate_task(
    name: str,
    cfg: EvalConfig,
    network: torch.nn.Module,
    task: Task,
    device: torch.device,
    progress: ProgressReporter,
) -> Evaluated:
    """``network`` on the task itself."""
    with _phase(progress, name, None):
        found = task.measure(network, cfg.batch_size, device, lambda done, total: progress.advance(done, total))
        return Evaluated(*found)


def evaluate_ood(
    name: str,
    cfg: EvalConfig,
    network: torch.nn.Module,
    task: Task,
    device: torch.device,
    progress: ProgressReporter,
) -> Evaluated:
    """The same metrics on the further sets, as ``perplexity@NAME``."""
    found = Evaluated({}, {})
    for other in task.ood:
        one = evaluate_task(f"{name} on {other.name}", cfg, network, other, device, progress)
        ending = f"{ON}{other.name}"
        metrics = {f"{metric}{ending}": value for metric, value in one.metrics.items()}
        found |= Evaluated(metrics, {f"{kind}{ending}": values for kind, values in one.outcomes.items()})
    return found


def own_arithmetic(
    cfg: ExperimentConfig, trained: Trained, task: Task, device: torch.device, progress: ProgressReporter
) -> tuple[Evaluated, dict[str, Any]] | None:
    """Figures and certificate of the network as its method computes it; None where no method has its own arithmetic.

    Raises:
        UserError: if two have. RunError: for NaN or infinity, or if a claim of integers does not hold.
    """
    own = [method for method in trained.methods if type(method).execute is not BaseMethod.execute]
    if len(own) > 1:
        raise UserError(f"methods {_names(own)} each compute the network in their own way; choose one")
    execution = own[0].execute(trained.model, cfg.kernels.int8) if own else None
    if execution is None:
        return None
    watched = Watched(execution.module)
    try:
        name = f"executing {own[0].name}"
        found = evaluate_task(name, cfg.eval, watched, task, device, progress)
        found |= evaluate_ood(name, cfg.eval, execution.module, task, device, progress)
    except NotFiniteError as error:
        raise RunError(str(error)) from error
    return found, execution.certify(watched.recorder)


def low_precision(
    cfg: ExperimentConfig, trained: Trained, task: Task, device: torch.device, progress: ProgressReporter
) -> Evaluated:
    """The network in the format that it was trained in, rounded to nearest."""
    precision = make_precision(cfg.train, rounding="nearest")
    assert precision is not None, "fp32 is the float network"
    network = copy.deepcopy(trained.model.module).eval()
    with precision.installed(network):
        running = Running(network, precision)
        return evaluate_network(f"evaluating {precision.name}", cfg.eval, running, task, device, progress)


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


def analysis(
    cfg: EvalConfig, trained: Trained, task: Task, device: torch.device, progress: ProgressReporter
) -> dict[str, Any]:
    """Method -> what it measures of the float network, on the batches that outliers are measured on."""
    found: dict[str, Any] = {}
    before = trained.facts.get("before", {})
    for method in trained.methods:
        if type(method).analyse is not BaseMethod.analyse:
            batches = _first_batches(cfg, task, device)
            with _phase(progress, f"analysing {method.name}", len(batches)):
                seen = _reporting(batches, progress)
                found[method.name] = method.analyse(trained.model, seen, before.get(method.name, {}))
    return found


def outliers(
    cfg: EvalConfig, trained: Trained, task: Task, device: torch.device, progress: ProgressReporter
) -> dict[str, Any]:
    """Outlier statistics of the float network on the first ``outlier_batches`` batches of the evaluation set."""
    batches = _first_batches(cfg, task, device)
    with _phase(progress, "measuring outliers", len(batches)):
        return measure_outliers(trained.model, _reporting(batches, progress))


def _first_batches(cfg: EvalConfig, task: Task, device: torch.device) -> list[Batch]:
    loader = DataLoader(task.evaluation(), batch_size=cfg.batch_size, collate_fn=task.collator)
    return [inputs_of(batch, device) for _, batch in zip(range(cfg.outlier_batches), loader, strict=False)]


def write_heatmaps(found: dict[str, Any], folder: Path, title: str) -> dict[str, str]:
    from qexp.results.heatmap import write_heatmaps as draw

    return draw(found, folder, title)


def converter(trained: Trained) -> BaseMethod:
    """The one method that converts in its own way, or the first, whose conversion is then the default."""
    own = [method for method in trained.methods if type(method).convert is not BaseMethod.convert]
    if len(own) > 1:
        raise UserError(f"methods {_names(own)} both convert the model; choose one")
    return (own or list(trained.methods))[0]


def _names(methods: Sequence[BaseMethod]) -> str:
    return " and ".join(method.name for method in methods)


def _reporting(batches: list[Batch], progress: ProgressReporter) -> Iterator[Batch]:
    for done, batch in enumerate(batches, start=1):
        yield batch
        progress.advance(done)


@contextmanager
def _phase(progress: ProgressReporter, name: str, total: int | None) -> Iterator[None]:
    progress.start(name, total)
    try:
        yield
    finally:
        progress.finish()
