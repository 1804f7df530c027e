"""Records made by hand: what the tests of stores, tables and exports begin with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from pydantic import TypeAdapter

from qexp.conf.tables import TableConfig
from qexp.results import grid
from qexp.results.ledger import Deviation
from qexp.results.schema import Metric, Record, Status
from qexp.results.section import Section

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


HOSTILE = "<script>document.title = 'run'</script>"


def _measured(record: Record, seed: int) -> Record:
    """With everything that a report shows of a record."""
    site = {"max_abs": 36.0, "std": 1.0, "outlier_dims": [[7, 120], [3, 4]]}
    sites = {
        f"layers.{n}.{role}": {**site, "role": role, "layer": n} for n in (0, 1) for role in ("query", "ffn_output")
    }
    tensor = {"before": 30.0, "after": 1.9, "selected": True, "share": 0.4}
    provenance = {
        **{"qexp": "0.1.0", "git": {"commit": "c0ffee" * 7, "dirty": True}, "python": "3.11.7", "threads": 2},
        **{"packages": {"torch": "2.13.0"}, "cpu": {"model": "EPYC", "isa": {"avx2": True, "amx": False}}},
        **{"gpu": ["H100"], "training_id": f"net{seed}", "started": "2026-11-23T05:22:14+00:00"},
        **{"wall_seconds": 70.6, "peak_memory_bytes": 2**30, "wandb": f"https://wandb.ai/a/qexp/runs/{seed}"},
    }
    return replace(
        record,
        outliers={"summary": {}, "sites": sites},
        analysis={"kure": {"kind": "weight_kurtosis", "target": 1.8, "tensors": {"a_weight": tensor, HOSTILE: tensor}}},
        training={"curve": [{"step": 10.0 * i, "loss": 3.0 / i} for i in range(1, 60)]},
        provenance=provenance,
    )


@pytest.fixture
def sections(make: RecordMaker) -> list[Section]:
    """A table with records, whose texts are hostile, one with the paper's figures alone, and one with nothing."""
    content: dict[str, Any] = {
        "title": f"Made up {HOSTILE}",
        "paper": "2306.12929",
        "rows": [{"label": "Float", "name": "float"}, {"label": HOSTILE, "name": "ours"}],
        "columns": [{"label": "A"}, {"label": "B"}],
        "seeds": [1, 2, 3],
        "published": {"cells": {"ours": {"A": {"value": 64.0, "spread": 0.5, "source": "Table 1"}}}},
        "claims": [
            {"name": "wins", "text": HOSTILE, "kind": "greater", "row": "ours", "than": "float", "columns": ["A"]},
            {"name": "loses", "text": "Ours loses.", "kind": "greater", "row": "float", "than": "ours"},
        ],
        "curves": [{"label": HOSTILE, "points": {"A": 4, "B": 8}}],
        "note": HOSTILE,
    }
    spec = TypeAdapter(TableConfig).validate_python(content)
    found: dict[tuple[int, int, int], Record | None] = {
        (seed, x, y): _measured(
            make(HOSTILE, seed=seed, changes={"task.name": "AB"[x]}, float=70 - 5 * y + seed * (1 + y) / 9), seed
        )
        for seed in (1, 2, 3)
        for x in (0, 1)
        for y in (0, 1)
    }
    found[3, 1, 1] = None
    build = {"scale": "small", "command": "qexp reproduce paper/one --scale small"}
    commands = {record.cell_id: f"qexp run seed={HOSTILE}" for record in found.values() if record is not None}
    ledger = (Deviation("train.max_steps", "160", HOSTILE, "every cell"),)
    alone = grid.build(spec, dict.fromkeys(found), **build)
    return [
        Section("paper/one", spec, "small", build["command"], grid.build(spec, found, **build), ledger, commands),
        Section("paper/two", spec, "small", build["command"], alone),
        Section("three", replace(spec, published=None), "small", build["command"]),
    ]
