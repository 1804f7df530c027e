"""Configurations as plain data, without the general copies of ``copy`` and ``dataclasses``.

Those take half of the time of planning a thousand experiments; a configuration holds dataclasses, dictionaries, lists,
tuples, and leaves that nothing changes.
"""

from __future__ import annotations

from typing import Any

LEAVES = (str, int, float, type(None))
"""Types of a configuration's leaves; a truth value is an integer."""


def as_data(value: Any) -> Any:
    """``dataclasses.asdict`` of a configuration, or of a part of one; tuples stay tuples."""
    if isinstance(value, LEAVES):
        return value
    if isinstance(value, dict):
        return {key: as_data(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(as_data, value))
    return {name: as_data(getattr(value, name)) for name in value.__dataclass_fields__}


def copied(tree: dict[str, Any]) -> dict[str, Any]:
    """``copy.deepcopy`` of what a YAML file holds: dictionaries, lists and leaves."""
    return {key: copied_value(value) for key, value in tree.items()}


def copied_value(value: Any) -> Any:
    """:func:`copied` of a value of any kind."""
    if isinstance(value, dict):
        return copied(value)
    return list(map(copied_value, value)) if isinstance(value, list) else value
