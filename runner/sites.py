"""The sites of a configured model, for ``qexp show --sites``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from qexp.conf.schema import ExperimentConfig
from qexp.runner.compose import resolve_objective


def sites_of(config: ExperimentConfig) -> list[dict[str, Any]]:
    """Every site of the model as plain data, in forward order. Loads the model, and the text for its tokenizer."""
    from qexp.models.adapt import adapt
    from qexp.models.loading import load_model, load_tokenizer
    from qexp.models.quantization import describe_sites
    from qexp.runner.tasks import load_corpus

    model = replace(config.model, pretrain=None)  # the same sites, trained or not
    corpus = load_corpus(config.task, config.data_dir)
    tokenizer = load_tokenizer(model, corpus.texts(), config.data_dir, Path(config.results_dir) / "cache")
    objective, length = resolve_objective(config), config.task.max_length
    return describe_sites(adapt(load_model(model, objective, corpus.num_labels, tokenizer, length, config.seed)))
