"""Configurations as plain data, without the general copies of ``copy`` and ``dataclasses``.

Those take half of the time of planning a thousand experiments; a configuration holds dataclasses, dictionaries, lists,
tuples, and leaves that nothing changes.
"""

from __future__ import annotations

from typing import Any

LEAVES = frozenset((str, int, float, bool, type(None)))
"""Types of a configuration's leaves."""


def as_data(value: Any) -> Any:
    """``dataclasses.asdict`` of a configuration, or of a part of one; tuples stay tuples."""
    kind = type(value)
    if kind in LEAVES:
        return value
    if kind is dict:
        return {key: item if type(item) in LEAVES else as_data(item) for key, item in value.items()}
    if kind is tuple or kind is list:
        return kind(map(as_data, value))
    fields = vars(value)
    return {
        name: item if type(item := fields[name]) in LEAVES else as_data(item) for name in value.__dataclass_fields__
    }


def copied(tree: dict[str, Any]) -> dict[str, Any]:
    """``copy.deepcopy`` of what a YAML file holds: dictionaries, lists and leaves."""
    return {key: item if type(item) in LEAVES else copied_value(item) for key, item in tree.items()}


def copied_value(value: Any) -> Any:
    """:func:`copied` of a value of any kind."""
    if isinstance(value, dict):
        return copied(value)
    return list(map(copied_value, value)) if isinstance(value, list) else value
