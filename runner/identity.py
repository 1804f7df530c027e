"""The identity of an experiment and of its trained network: a hash of what may change a figure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from qexp.conf.identity import (
    EVALUATION_KEYS,
    EVALUATION_SUBKEYS,
    LATER_PRETRAIN_KEYS,
    LATER_SUBKEYS,
    QUANT_EVALUATION_SUBKEYS,
    VOLATILE_KEYS,
    VOLATILE_SUBKEYS,
)
from qexp.conf.plain import LEAVES, as_data
from qexp.conf.schema import ExperimentConfig
from qexp.methods.registry import later_settings, quantizes_training, trained_with
from qexp.results.schema import RECORD_VERSION
from qexp.runner.pretraining import pretraining_run

_CANONICAL = LEAVES - {float}


def cell_id(cfg: ExperimentConfig) -> str:
    """Identity of one experiment: 16 hex digits over everything that may change a figure.

    Recipe versions are part of the configuration; the record version is added, since an older record cannot be read.
    """
    return _digest({"record": RECORD_VERSION, "config": _identity(cfg)})


def training_id(cfg: ExperimentConfig) -> str:
    """Identity of a trained model: like :func:`cell_id`, without the keys and methods that act only after training."""
    trained = replace(cfg, method=trained_with(cfg.method))
    config = _without(_identity(trained), EVALUATION_KEYS, EVALUATION_SUBKEYS)
    if quantizes_training(trained.method):
        config["quant"] = {k: v for k, v in as_data(cfg.quant).items() if k not in QUANT_EVALUATION_SUBKEYS}
    return _digest({"training": config})


def trained_networks(cfg: ExperimentConfig) -> Path:
    """The folder of all trained networks, each in a folder that its training id names."""
    return Path(cfg.results_dir) / "trained"


def home_of(cfg: ExperimentConfig) -> Path:
    """The folder of the trained network."""
    return trained_networks(cfg) / training_id(cfg)


def partial_of(cfg: ExperimentConfig) -> Path:
    """The folder of its checkpoints while it is trained."""
    home = home_of(cfg)
    return home.with_name(f"{home.name}.partial")


def _identity(cfg: ExperimentConfig) -> dict[str, Any]:
    """What may change a figure. A key that came later is left out at the value that older records imply."""
    config = _without(as_data(cfg), VOLATILE_KEYS, VOLATILE_SUBKEYS)
    config["method"] = [
        {"name": choice["name"], "settings": _without_implied(choice["settings"], later_settings(choice["name"]))}
        for choice in config["method"]
    ]
    for group, later in LATER_SUBKEYS.items():
        config[group] = _without_implied(config[group], later)
    if pretrain := config["model"].get("pretrain"):
        config["model"]["pretrain"] = _without_implied(pretrain, LATER_PRETRAIN_KEYS)
    if further := config.pop("ood"):
        config["ood"] = [_without_implied(task, LATER_SUBKEYS["task"]) for task in further]
    if config.pop("pretraining"):
        config["pretraining"] = training_id(pretraining_run(cfg))
    return config


def _without_implied(values: dict[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in later or value != later[key]}


def _without(config: dict[str, Any], keys: tuple[str, ...], subkeys: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    kept = {key: value for key, value in config.items() if key not in keys}
    for group, dropped in subkeys.items():
        kept[group] = {key: value for key, value in kept[group].items() if key not in dropped}
    return kept


def _digest(value: Any) -> str:
    text = json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _canonical(value: Any) -> Any:
    """One spelling for equal values: whole floats as integers (``0.0`` is ``0``); JSON has no tuples but lists."""
    kind = type(value)
    if kind is dict:
        return {str(key): item if type(item) in _CANONICAL else _canonical(item) for key, item in value.items()}
    if kind is float:
        return int(value) if value.is_integer() else value
    return list(map(_canonical, value)) if kind is list or kind is tuple else value
