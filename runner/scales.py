"""Scales of a configured run's tensors before training, for ``qexp show --scales``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from qexp.conf.schema import ExperimentConfig
from qexp.models.quiet import quiet
from qexp.models.tensor_scales import BAND, casting_noise, deviations, measure_scales
from qexp.results.pictures import draw
from qexp.runner.devices import prepare_process
from qexp.runner.preparation import prepare_task
from qexp.runner.progress import SilentProgress
from qexp.runner.trained import prepared_network


def scales_of(config: ExperimentConfig) -> dict[str, Any]:
    """Statistics of every tensor in the first training step, on the CPU, with the first training examples.

    ``scales`` as :func:`~qexp.models.tensor_scales.measure_scales` gives them, and for the picture ``band`` and
    ``casting``.
    """
    prepare_process(config.seed, config.threads)
    task, tokenizer = prepare_task(config, SilentProgress())
    model, _, _ = prepared_network(config, task, tokenizer)
    batch = next(iter(DataLoader(task.train(), batch_size=config.train.batch_size, collate_fn=task.collator)))
    with quiet():
        scales = measure_scales(model, batch)
    return {"scales": scales, "band": list(BAND), "casting": casting_noise()}


def draw_scales(config: ExperimentConfig, found: dict[str, Any]) -> Path:
    """The picture of what :func:`scales_of` found, below the results; its path."""
    methods = "+".join(choice.name for choice in config.method)
    analysis = {"kind": "tensor_scales", **found, "initial": deviations(found["scales"])}
    folder = Path(config.results_dir, "scales", f"{config.model.name}.{config.task.name}")
    return folder / draw({methods: analysis}, folder, f"{config.model.name} on {config.task.name}")[methods]
