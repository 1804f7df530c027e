"""Executing a quantized network in integers: its figures, how far they lie from the simulated ones, and the proof."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from qexp.models.certificate import Recorder
from qexp.models.integer import integer_model
from qexp.results.schema import Metric
from qexp.runner.bench import Bench
from qexp.runner.evaluation import Evaluated, evaluate_ood, evaluate_task

DEFINITION = (
    "executed minus simulated, both run on the same batches of the evaluation set; metric: difference of the primary "
    "metric; logits: absolute differences over every logit of the attended positions; argmax agreement: share of these "
    "positions (n; of questions: of starts and ends) whose largest logit is the same; control: the same of the "
    "simulation in float64 against that in float32, on the first batches"
)
CONTROL_BATCHES = 2
"""Batches on which the simulation is run in float64 too: how far rounding alone moves this network."""


def evaluate_integer(
    bench: Bench, bits: str, quantized: nn.Module, simulated: dict[str, Metric]
) -> tuple[Evaluated, dict[str, Any]]:
    """Execute ``quantized`` in integers: its figures, and ``{"certificate": ..., "gap": ...}`` for the record.

    ``simulated`` are the metrics of ``quantized`` itself. Gap and certificate are about the task's own evaluation set.

    Raises:
        IntegerError: if a product that the integer model claims did not run in integers.
    """
    integer = integer_model(quantized, bench.trained.model, backend=bench.cfg.kernels.int8)
    both = SideBySide(quantized, integer.module)
    name = f"executing {bits}"
    found = evaluate_task(bench, name, both) | evaluate_ood(bench, name, integer.module)
    primary = next(iter(found.metrics))
    gap = {"metric": found.metrics[primary].value - simulated[primary].value, **both.gap.result()}
    gap |= {"control": both.control_gap.result(), "definition": DEFINITION}
    return found, {"certificate": both.recorder.certificate(integer), "gap": gap}


class SideBySide(nn.Module):
    """Gives the executed network's output, and compares its logits with the simulated one's on the way.

    On the first batches it also compares the simulation with itself in float64, which differs by rounding alone.
    """

    control: nn.Module | None

    def __init__(self, simulated: nn.Module, executed: nn.Module):
        super().__init__()
        self.simulated, self.executed = simulated, executed
        self.control = copy.deepcopy(simulated).double()
        self.recorder, self.gap, self.control_gap = Recorder(), LogitGap(), LogitGap()
        self._batches = 0

    def forward(self, **inputs: Tensor) -> Any:
        expected = self.simulated(**inputs).logits
        self._compare_control(expected, inputs)
        with self.recorder:
            output = self.executed(**inputs)
        self.gap.update(expected, output.logits, inputs.get("attention_mask"))
        return output

    def _compare_control(self, expected: Tensor, inputs: dict[str, Tensor]) -> None:
        if self.control is not None:
            self.control_gap.update(expected, self.control(**inputs).logits, inputs.get("attention_mask"))
            self._batches += 1
            if self._batches == CONTROL_BATCHES:
                self.control = None  # twice the float network's memory is no longer needed


class LogitGap:
    """Differences of two networks' logits over all batches."""

    def __init__(self) -> None:
        self._largest = self._total = 0.0
        self._positions = self._same = self._width = self._logits = 0

    def update(self, simulated: Tensor, executed: Tensor, attended: Tensor | None) -> None:
        """Take in [B, C], one position an example, or [B, T, C], of which ``attended`` [B, T] says which count.

        Of questions [B, 2, T]: start and end are positions, and the attended tokens their classes.
        """
        if simulated.ndim == 2:
            self._add(simulated, executed)
            return
        for row, (expected, found) in enumerate(zip(simulated, executed, strict=True)):
            if attended is not None:
                axis = 0 if len(expected) == len(attended[row]) else 1
                kept = attended[row].nonzero().flatten()
                expected, found = expected.index_select(axis, kept), found.index_select(axis, kept)
            self._add(expected, found)

    def _add(self, simulated: Tensor, executed: Tensor) -> None:
        """[N, C] each: one row of a batch, since all differences of a batch at once are as large as its logits."""
        if not len(executed):
            return
        apart = (executed - simulated).abs()
        self._largest = max(self._largest, float(apart.amax()))
        self._total += float(apart.sum(dtype=torch.float64))
        self._same += int((executed.argmax(-1) == simulated.argmax(-1)).sum())
        self._positions, self._logits = self._positions + len(apart), self._logits + apart.numel()
        self._width = apart.shape[-1]

    def result(self) -> dict[str, Any]:
        """``argmax_agreement`` is None for a regression: one output is always the largest."""
        return {
            "logits_max_abs": self._largest,
            "logits_mean_abs": self._total / self._logits,
            "argmax_agreement": self._same / self._positions if self._width > 1 else None,
            "n": self._positions,
        }
