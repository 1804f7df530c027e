"""From a record's configuration back to a run: the configuration itself, and the overrides that compose it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from qexp.conf.catalog import GROUPS, choices
from qexp.conf.identity import SETTLED_KEYS
from qexp.conf.schema import ExperimentConfig, MethodChoice
from qexp.methods.registry import BASELINE, with_later_settings
from qexp.results.select import flatten
from qexp.runner.checking import check
from qexp.runner.compose import compose_dict, compose_difference

_PLAIN = re.compile(r"[A-Za-z_./][\w./:%@-]*")
_WORDS = ("true", "false", "null", "nan", "inf")


_PLACED = {"hub": ("model.path", "model.family"), "text_folder": ("task.folder",)}
"""What must stand beside a choice that takes any place, for it to compose at all."""


def config_of(data: Mapping[str, Any]) -> ExperimentConfig:
    """The checked configuration that a record keeps as plain data."""
    methods = {choice["name"]: choice["settings"] for choice in _with_later_settings(data)["method"]}
    return check({key: value for key, value in data.items() if key != "method"}, methods)


def baseline_of(config: Mapping[str, Any]) -> ExperimentConfig | None:
    """The same experiment without its methods; None for one that is the baseline itself."""
    full = config_of(config)
    baseline = (MethodChoice(BASELINE),)
    return None if full.method == baseline else replace(full, method=baseline)


def overrides_for(config: Mapping[str, Any]) -> list[str]:
    """Overrides whose composition is ``config``: the groups' choices, then every value that is not the choice's own."""
    config = _with_later_settings(config)
    wanted = flatten(config)
    chosen = _choices(config, wanted)
    open_keys = {key for key in wanted if key != "method" and key.split(".")[0] not in SETTLED_KEYS}
    keys = [key for key, _, _ in compose_difference(compose_dict(chosen), config) if key in open_keys]
    return [*chosen, *(f"{key}={quoted(wanted[key])}" for key in keys)]


def _with_later_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A record's configuration with the settings of its methods that came after it, at the values that hold for it."""
    return {
        **config,
        "method": [
            {**choice, "settings": with_later_settings(choice["name"], choice["settings"])}
            for choice in config["method"]
        ],
    }


def _choices(config: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    names = [choice["name"] for choice in config["method"]]
    chosen = [f"method={names[0]}" if len(names) == 1 else f"method=[{','.join(names)}]"]
    for group in GROUPS[1:]:
        name = config["scale"] if group == "scale" else config[group]["name"]
        if name not in choices(group):
            continue
        chosen.append(f"{group}={name}")
        chosen += [f"{key}={quoted(wanted[key])}" for key in _PLACED.get(name, ()) if key.startswith(f"{group}.")]
    if config["model"]["family"] == "auto":
        chosen.append(f"task.objective={config['task']['objective']}")  # else it would be asked of the model's files
    return chosen


def quoted(value: Any) -> str:
    """A value as Hydra's override grammar reads it back."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{quoted(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(quoted, value)) + "]"
    if isinstance(value, str) and not (_PLAIN.fullmatch(value) and value.lower() not in _WORDS):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return str(value)
