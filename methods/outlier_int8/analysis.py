"""What the split does, layer by layer: how many outliers there are and where, the step, the noise of each product."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from qexp.kernels.fixed_point.linear import Arithmetic, linear
from qexp.kernels.fixed_point.operand import Operand
from qexp.methods.base import Batch
from qexp.methods.outlier_int8.functional import arithmetic, outlier_format, threshold
from qexp.methods.outlier_int8.settings import Settings
from qexp.models.sites import AdaptedModel

LARGEST_INLIER_BITS = 8
MOST_COLUMNS = 8
"""Columns that are listed for a layer: those with the most outliers."""
DEFINITION = (
    "inputs of each linear layer, padding included, over the first batches of the evaluation set; outliers: elements "
    "beyond the threshold; columns: those with an outlier in some batch; step: lower median over batches of the "
    "power-of-two step of the tensor as a whole, and of what stays when the outliers are taken out; SQNR = "
    "10 log10(sum y^2 / sum (y' - y)^2) in dB of the float32 product y = x w^T over all batches, rounded to nearest, "
    "weights in fixed point too"
)


@dataclass
class Noise:
    """Energy of a product and of its error, over all batches."""

    signal: float = 0.0
    error: float = 0.0

    def add(self, exact: Tensor, found: Tensor) -> None:
        self.signal += float(exact.square().sum(dtype=torch.float64))
        self.error += float((found - exact).square_().sum(dtype=torch.float64))

    @property
    def decibels(self) -> float | None:
        """None where there is no signal or no error."""
        return 10 * math.log10(self.signal / self.error) if self.signal and self.error else None


@dataclass
class LayerReport:
    """What is gathered of one layer."""

    width: int
    elements: int = 0
    largest: float = 0.0
    by_column: Tensor | None = None
    steps: dict[str, list[float]] = field(default_factory=lambda: {"whole": [], "split": []})
    noise: dict[str, Noise] = field(default_factory=lambda: {"whole": Noise(), "split": Noise()})

    def result(self, name: str) -> dict[str, Any]:
        counts = self.by_column if self.by_column is not None else torch.zeros(self.width, dtype=torch.int64)
        most = counts.argsort(descending=True, stable=True)[:MOST_COLUMNS]
        return {
            "name": name,
            "outlier_fraction": float(counts.sum()) / max(self.elements, 1),
            "columns_with_outliers": int((counts > 0).sum()),
            "columns": self.width,
            "most": [[int(column), int(counts[column])] for column in most if counts[column]],
            "max_abs": self.largest,
            "step": {form: statistics.median_low(found) for form, found in self.steps.items() if found},
            "sqnr_db": {form: noise.decibels for form, noise in self.noise.items()},
        }


@torch.no_grad()
def analyse(
    model: AdaptedModel, settings: Settings, chosen: Callable[[str], bool], batches: Iterable[Batch]
) -> dict[str, Any]:
    """The record's ``analysis`` of a float network: one entry a chosen linear layer, and a summary; all JSON-able."""
    network: Any = model.module
    layers = {n: m for n, m in network.named_modules() if isinstance(m, nn.Linear | Conv1D) and chosen(n)}
    measure = Measure(settings)
    hooks = [layer.register_forward_pre_hook(measure.hook(name)) for name, layer in layers.items()]
    try:
        for batch in batches:
            network(**batch)
    finally:
        for hook in hooks:
            hook.remove()
    found = [report.result(name) for name, report in measure.reports.items()]
    return {"kind": "outlier_split", "layers": found, "summary": _summary(found), "definition": DEFINITION}


class Measure:
    """Takes in the inputs of layers, batch by batch."""

    def __init__(self, settings: Settings):
        self.reports: dict[str, LayerReport] = {}
        self.threshold = threshold(settings)
        whole = replace(arithmetic(settings), forward_rounding="nearest", threshold=None, outliers=None)
        inlier_bits = min(settings.activation_bits, LARGEST_INLIER_BITS)
        split = replace(whole, activation_bits=inlier_bits, threshold=self.threshold, outliers=outlier_format(settings))
        self.forms: dict[str, Arithmetic] = {"whole": whole, "split": split}

    def hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def take(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0].reshape(-1, args[0].shape[-1]).float()
            weight: Any = layer.weight.t() if isinstance(layer, Conv1D) else layer.weight
            self._add(self.reports.setdefault(name, LayerReport(x.shape[1])), x, weight.float().contiguous())

        return take

    def _add(self, report: LayerReport, x: Tensor, weight: Tensor) -> None:
        beyond = (x.abs() > self.threshold.limit(x)).sum(0).cpu()
        report.by_column = beyond if report.by_column is None else report.by_column + beyond
        report.elements += x.numel()
        report.largest = max(report.largest, float(x.abs().max()))
        exact = x @ weight.t()  # float32: its own error lies a hundred decibels below that of eight bits
        for form, numbers in self.forms.items():
            mapped = numbers.activations(x)
            report.steps[form].append(_step(mapped))
            report.noise[form].add(exact, linear(mapped, numbers.weights(weight), None))


def _step(mapped: Operand) -> float:
    """The dense part's step: that of its last tile, the lowest."""
    dense = [tile for tile in mapped.tiles if tile.columns is None]
    return math.ldexp(1.0, min(tile.exponent for tile in dense))


def _summary(layers: list[dict[str, Any]]) -> dict[str, Any]:
    """Over layers: mean and largest outlier fraction, medians of the steps' ratio and of the SQNR."""
    fractions = [layer["outlier_fraction"] for layer in layers]
    ratios = [layer["step"]["whole"] / layer["step"]["split"] for layer in layers if layer["step"]]
    decibels = {
        form: [layer["sqnr_db"][form] for layer in layers if layer["sqnr_db"][form] is not None]
        for form in ("whole", "split")
    }
    return {
        "outlier_fraction": statistics.fmean(fractions) if fractions else None,
        "largest_outlier_fraction": max(fractions, default=None),
        "step_ratio": statistics.median(ratios) if ratios else None,
        **{f"sqnr_db_{form}": statistics.median(found) if found else None for form, found in decibels.items()},
    }
