"""Records made by hand: what the tests of stores, tables and exports begin with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import pytest

from qexp.results.schema import Metric, Record, Status

PERPLEXITY = "exp(mean loss), windows of 64 tokens"
RecordMaker = Callable[..., Record]


def _config(method: str, seed: int, changes: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = {
        "method": [{"name": name, "settings": dict(settings)} for name in method.split("+")],
        "model": {"name": "minilm", "source": "package", "dimensions": {}},
        "task": {"name": "wikitext2", "max_length": 64},
        "quant": {"name": "ptq", "bits": ["w8a8"], "weights": {"symmetric": True}},
        "train": {"name": "continue_mlm", "max_steps": 220, "ffn_output_penalty": 0.0, "save_steps": 100},
        "eval": {"batch_size": 32, "heatmaps": True},
        "tracking": {"name": "none", "mode": "none"},
        "scale": "small",
        "seed": seed,
        "device": "cpu",
        "data_dir": "/somewhere/data",
        "results_dir": "runs",
        "table": "adhoc",
    }
    for key, value in changes.items():
        *groups, last = key.split(".")
        target = config
        for group in groups:
            target = target[group]
        target[last] = value
    return config


@pytest.fixture
def make(executed: dict[str, Any]) -> RecordMaker:
    """``make("vanilla", seed=1, float=65.0, w8a8=66.0, **{"train.max_steps": 3})`` gives a record."""

    def record(
        method: str = "vanilla",
        *,
        seed: int = 1000,
        settings: Mapping[str, Any] | None = None,
        metric: str = "perplexity",
        higher_is_better: bool = False,
        definition: str = PERPLEXITY,
        outliers: Mapping[str, Any] | None = None,
        status: Status = "finished",
        message: str = "",
        changes: Mapping[str, Any] | None = None,
        **figures: float,
    ) -> Record:
        config = _config(method, seed, changes or {}, settings or {})
        identity = json.dumps([config, status, sorted(figures)], sort_keys=True)
        return Record(
            cell_id=hashlib.sha256(identity.encode()).hexdigest()[:16],
            status=status,
            config=config,
            provenance={"qexp": "0.1.0", "seed": seed},
            metrics={
                setting.replace("_", "."): {metric: Metric(value, higher_is_better, 872, definition)}
                for setting, value in figures.items()
            },
            outliers={"summary": dict(outliers), "sites": {}} if outliers else {},
            integer={s.removesuffix("_integer"): deepcopy(executed) for s in figures if s.endswith("_integer")},
            message=message,
        )

    return record
