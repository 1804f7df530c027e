"""Read the overrides of a command line: which choice of each group, and which values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException

from qexp.conf.catalog import GROUPS, SWEEP_SETTINGS, choices, did_you_mean
from qexp.conf.errors import UserError
from qexp.runner.secrets import refuse_secrets


class _Place(NamedTuple):
    """The choice of a group that takes any folder, the key of the folder, and how to say so."""

    choice: str
    key: str
    words: str


_PLACES = {
    "model": _Place("hub", "model.path", "organisation/name on the hub, or a local folder"),
    "task": _Place("text_folder", "task.folder", "a local folder of text"),
}


@dataclass(frozen=True)
class Value:
    """One key to set, or to remove (then the schema's default holds again)."""

    key: str
    value: Any = None
    delete: bool = False


@dataclass(frozen=True)
class Request:
    """What the user asked for. ``methods`` is empty and a group is absent from ``groups`` where nothing was named."""

    methods: tuple[str, ...] = ()
    groups: Mapping[str, str] = field(default_factory=dict)
    values: tuple[Value, ...] = ()


def parse(overrides: Sequence[str]) -> Request:
    """Split overrides into choices and values; later ones win. Raises ``UserError`` for whatever cannot be read."""
    refuse_secrets(overrides)
    methods: tuple[str, ...] = ()
    groups: dict[str, str] = {}
    values: list[Value] = []
    for text in overrides:
        override = _read(text)
        key, value = override.key_or_group, override.value()
        if key not in GROUPS:
            values.append(Value(key, value, delete=override.type is OverrideType.DEL))
        elif override.type is OverrideType.DEL:
            raise UserError(f"{text}: a {key} cannot be taken away; choose another with {key}=NAME")
        elif key == "method":
            methods = _methods(text, value)
        elif not isinstance(value, str) or not value:
            raise UserError(f"{text}: {key} takes one name; choices: {', '.join(choices(key))}")
        else:
            groups[key], place = choose(key, value)
            values += place
    return Request(methods, groups, tuple(values))


def replace(overrides: Sequence[str], changes: Sequence[str]) -> list[str]:
    """``overrides`` with ``changes`` on top; a group that is chosen anew loses the values given to the old choice."""
    anew = {key for text in changes if (key := text.lstrip("+").partition("=")[0]) in GROUPS}
    kept = [text for text in overrides if text.lstrip("+~").partition("=")[0].partition(".")[0] not in anew]
    return [*kept, *changes]


def split(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides of the experiments, and those of the sweep itself (``launcher=…``, ``sweep.…=…``)."""
    own = [text for text in overrides if text.lstrip("+~").partition("=")[0].partition(".")[0] in SWEEP_SETTINGS]
    return [text for text in overrides if text not in own], own


@lru_cache(maxsize=4096)
def _read(text: str) -> Override:
    """Hydra's reading of one override. Its value is shared by all who read the same text."""
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise UserError(
            f"{text}: not an override; write key=value, +key=value or ~key, and quote a value with unusual characters: "
            f"\"key='...'\""
        ) from error
    if override.is_sweep_override():
        raise UserError(
            f"{text}: several values, but one run is one experiment: `qexp sweep` runs each of them "
            f"(a list is written in brackets: {override.key_or_group}=[...])"
        )
    if override.package is not None or not override.key_or_group:
        raise UserError(f"{text}: not an override; write key=value")
    return override


def _methods(text: str, value: Any) -> tuple[str, ...]:
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) and name for name in names):
        raise UserError(f"{text}: method takes a name or a list of names; methods: {', '.join(choices('method'))}")
    if len(set(names)) < len(names):
        raise UserError(f"{text}: a method is named twice")
    return tuple(known("method", name) for name in names)


def choose(group: str, value: str) -> tuple[str, list[Value]]:
    """What ``group=value`` chooses: one of the group's names, or the choice that takes any place, and that place."""
    if group in _PLACES and value not in choices(group) and ("/" in value or Path(value).is_dir()):
        return _PLACES[group].choice, [Value(_PLACES[group].key, value)]
    return known(group, value), []


def known(group: str, name: str) -> str:
    """``name`` if the group has it, else a ``UserError`` with the nearest."""
    names = choices(group)
    if name in names:
        return name
    near = did_you_mean(name, names) or ";"
    or_place = f" (or {_PLACES[group].words})" if group in _PLACES else ""
    raise UserError(f"unknown {group} '{name}'{near} choices: {', '.join(names)}{or_place}")
