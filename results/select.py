"""Reading a record's configuration: dotted keys, and whether a record is one that was asked for."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from qexp.conf.errors import UserError
from qexp.conf.identity import SETTLED_KEYS
from qexp.results.schema import Record

Flat = dict[str, Any]
"""A configuration as ``{"train.learning_rate": 1e-4, …}``. A list is one value; a method is ``method.<name>.<key>``."""


def flatten(config: Mapping[str, Any]) -> Flat:
    """The configuration's leaves by dotted key; ``method`` itself is the tuple of the methods' names."""
    choices = config.get("method", ())
    methods = {choice["name"]: choice.get("settings", {}) for choice in choices}
    return {"method": tuple(methods), **dict(_leaves({**config, "method": methods}, ""))}


def labelled(config: Mapping[str, Any]) -> Flat:
    """:func:`flatten` for a reader of rows: the model's name is its :func:`model_label`."""
    flat = flatten(config)
    if "model.name" in flat:
        flat["model.name"] = model_label(config["model"])
    for key in ("model.plant_outliers", "model.pretrain"):  # null: what a record without the key says
        flat.pop(key, None)
    return {key: value for key, value in flat.items() if key.split(".")[0] not in SETTLED_KEYS}


def model_label(model: Mapping[str, Any]) -> str:
    """A model's name, what it was pretrained on, and planted outliers: ``tiny_gpt2 (from books, planted 4 x 64)``."""
    pretrain, planted = model.get("pretrain"), model.get("plant_outliers")
    notes = [f"from {pretrain['task']}"] if pretrain else []
    notes += [f"planted {planted['channels']} x {planted['factor']:g}"] if planted else []
    return f"{model['name']} ({', '.join(notes)})" if notes else str(model["name"])


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield key, value
        return
    for name, item in value.items():
        yield from _leaves(item, f"{key}.{name}" if key else str(name))


def text(value: Any) -> str:
    """A configuration value as one would type it on the command line."""
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return text(value[0]) if len(value) == 1 else f"[{','.join(map(text, value))}]"
    return json.dumps(value)


def lookup(flat: Flat, key: str) -> list[Any]:
    """What ``key`` stands for: its value, a group's name (``model``), or a setting of any method (``method.gamma``)."""
    if key.count(".") == 1 and key.startswith("method."):
        setting = key.removeprefix("method")
        return [value for name, value in flat.items() if name.startswith("method.") and name.endswith(setting)]
    return [flat[name] for name in (key, f"{key}.name") if name in flat]


def matches(record: Record, where: Mapping[str, Any]) -> bool:
    """Whether every dotted key has the wanted value, the two compared as one would type them."""
    flat = {**flatten(record.config), "status": record.status} if where else {}
    return all(text(wanted) in map(text, lookup(flat, key)) for key, wanted in where.items())


def check_keys(records: Iterable[Record], keys: Iterable[str]) -> None:
    """Raise ``UserError`` for a key that no record has: it is a typing error, not an empty answer."""
    keys = list(keys)
    if not keys:
        return
    flats = [flatten(record.config) for record in records]
    known = {name for flat in flats for key in flat for name in (key, key.removesuffix(".name"))}
    for key in keys:
        if flats and key != "status" and not any(lookup(flat, key) for flat in flats):
            near = difflib.get_close_matches(key, sorted(known), n=3, cutoff=0.5)
            hint = f"; nearest: {', '.join(near)}" if near else ""
            raise UserError(f"no record has the configuration key {key!r}{hint}")
