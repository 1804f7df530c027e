"""The sites of a configured model, for ``qexp show --sites``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qexp.conf.schema import ExperimentConfig
from qexp.runner.compose import resolve_objective


def sites_of(config: ExperimentConfig) -> list[dict[str, Any]]:
    """Every site of the model as plain data, in forward order. Loads the model and the task's data."""
    from qexp.models.adapt import adapt
    from qexp.models.loading import load_model
    from qexp.models.quantization import describe_sites
    from qexp.runner.preparation import load_data

    model = replace(config.model, pretrain=None)  # the same sites, trained or not
    corpus, processor = load_data(config, model)
    objective, length = resolve_objective(config), config.task.max_length
    return describe_sites(adapt(load_model(model, objective, corpus.num_labels, processor, length, config.seed)))
