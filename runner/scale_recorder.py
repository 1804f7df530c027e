"""Scales of all tensors while a network is trained: measured in the training passes themselves, every so many steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from transformers import TrainerState

from qexp.models.sites import AdaptedModel
from qexp.models.tensor_scales import BAND, standard_deviation
from qexp.models.tensor_watch import add_parameters, watched

KEY = "scales"
"""What an entry of the Trainer's log has beside its ``step``, for a pass that was measured."""


class ScaleRecorder:
    """Adds standard deviations to the Trainer's log, which checkpoints keep, so that a resumed run has all of them.

    Measured are the pass before the first step, before every ``every``-th after it, and before the last one. ``every``:
    None measures nothing. Other passes have no hooks.
    """

    def __init__(self, model: AdaptedModel, every: int | None):
        self.model, self.every = model, every

    @contextmanager
    def over(self, state: TrainerState, last_pass: bool) -> Iterator[None]:
        """Measure the training pass in the block, where its step is due. ``last_pass``: of an accumulated step."""
        step = state.global_step
        if self.every is None or not last_pass or (step % self.every and step != state.max_steps - 1):
            yield
            return
        with watched(self.model, standard_deviation) as found:
            yield
        gradients = {name: p.grad for name, p in self.model.module.named_parameters()}
        add_parameters(found, self.model, gradients, standard_deviation)
        state.log_history.append({"step": step, KEY: found})


def scale_curves(log: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The record's ``training.scales``, of a Trainer's log; empty where nothing was measured.

    ``steps``: how many optimizer steps had been taken. ``tensors``: place -> kind -> standard deviation at each of
    them, None where the tensor had none. ``band``: scales of no concern; ``in_band``: the share of tensors whose scale
    lies there in the ``first`` pass and in the ``last``.
    """
    points = [entry for entry in log if KEY in entry]
    if not points:
        return {}
    places: dict[str, dict[str, None]] = {}
    for point in points:
        for place, kinds in point[KEY].items():
            places.setdefault(place, {}).update(dict.fromkeys(kinds))
    tensors = {
        place: {kind: [point[KEY].get(place, {}).get(kind) for point in points] for kind in kinds}
        for place, kinds in places.items()
        if kinds
    }
    return {
        "kind": "scale_curves",
        "band": list(BAND),
        "in_band": {"first": _share_in_band(points[0][KEY]), "last": _share_in_band(points[-1][KEY])},
        "steps": [point["step"] for point in points],
        "tensors": tensors,
    }


def _share_in_band(scales: Mapping[str, Mapping[str, float | None]]) -> float | None:
    """Of the tensors that have a scale; a scale of 0 or NaN lies outside."""
    found = [scale for kinds in scales.values() for scale in kinds.values() if scale is not None]
    return sum(BAND[0] <= scale <= BAND[1] for scale in found) / len(found) if found else None
