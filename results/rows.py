"""Which records share a row of a table: those that differ only in their seed. Unlike runs are never averaged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qexp.conf.identity import VOLATILE_KEYS, VOLATILE_SUBKEYS
from qexp.results.schema import Record
from qexp.results.select import Flat, check_keys, labelled, lookup, text

WITHOUT_EFFECT = (
    *(f"{group}.{key}" for group, keys in VOLATILE_SUBKEYS.items() for key in keys),
    "eval.heatmaps",
    "eval.outliers",
    "eval.integer",
    "eval.ood",
    "task.ood",
)
"""Keys that cannot change a figure (what is measured besides is no figure of the table's)."""
NEVER_A_ROW = ("seed", "quant.bits", *WITHOUT_EFFECT)
"""Repetitions (the seed), what the columns show (the bits), and what has no effect."""
ALIKE = ("model", "task", "scale")
"""Only rows that agree in all of these are compared with each other."""
BASELINE = "vanilla"
ABSENT = "–"


@dataclass(frozen=True)
class Group:
    """The records of one row, by their values of the row keys."""

    labels: tuple[str, ...]
    block: tuple[str, ...]
    """Same for all groups that may be compared."""
    records: tuple[Record, ...]

    @property
    def seeds(self) -> tuple[Any, ...]:
        return tuple(sorted({record.config.get("seed") for record in self.records}, key=str))


def group(records: Sequence[Record], rows: Sequence[str]) -> tuple[tuple[str, ...], tuple[Group, ...]]:
    """Group ``records`` by the wanted keys ``rows`` and by every other key in which they differ, except the seed.

    A key that a group's name decides is left out (``model.dimensions.layers`` beside ``model.name``). The model, the
    task and the scale come first where they differ, then ``rows``, then the rest. Returns the keys and the groups in
    their order: numbers by size, the baseline before other methods.
    """
    flats = {record.cell_id: labelled(record.config) for record in records}
    listed = list(flats.values())
    check_keys(records, rows)
    wanted = [_full(key, listed) for key in rows]
    others = [key for key in _differing(listed) if key not in wanted]
    first = [key for key in others if key.split(".")[0] in ALIKE]
    keys = tuple(first + wanted + [key for key in others if key not in first])
    members: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    telling = _telling_settings(listed)
    for record in sorted(records, key=lambda record: record.cell_id):
        members[tuple(_label(flats[record.cell_id], key, telling) for key in keys)].append(record)
    groups = [Group(labels, _block(flats[found[0].cell_id]), tuple(found)) for labels, found in members.items()]
    return keys, tuple(sorted(groups, key=lambda group: [_order(label) for label in group.labels]))


def heading_of_key(key: str, keys: Sequence[str]) -> str:
    """The last word of a dotted key (``model`` for ``model.name``), or the whole key where two would read the same."""
    return key if [_short(other) for other in keys].count(_short(key)) > 1 else _short(key)


def _short(key: str) -> str:
    return key.removesuffix(".name").rpartition(".")[2]


def _full(key: str, flats: list[Flat]) -> str:
    """``model`` means ``model.name``."""
    if any(key in flat for flat in flats) or key.startswith("method."):
        return key
    return f"{key}.name"


def _differing(flats: list[Flat]) -> list[str]:
    keys = dict.fromkeys(key for flat in flats for key in flat)
    return [key for key in keys if _may_be_a_row(key) and _varies(flats, key)]


def _may_be_a_row(key: str) -> bool:
    return key not in NEVER_A_ROW and key.split(".")[0] not in VOLATILE_KEYS and not key.startswith("method.")


def _varies(flats: list[Flat], key: str) -> bool:
    """Whether the key tells records apart that the name of its group, at one scale, does not."""
    name = f"{key.split('.')[0]}.name"
    values = defaultdict(set)
    for flat in flats:
        named = (text(flat[name]), flat.get("scale")) if name in flat and key != name else None
        values[named].add(_value(flat, key))
    return any(len(found) > 1 for found in values.values())


def _value(flat: Flat, key: str) -> str:
    return ", ".join(map(text, lookup(flat, key))) or ABSENT


def _telling_settings(flats: list[Flat]) -> dict[tuple[str, ...], list[str]]:
    """For each choice of methods, the keys of the settings in which its records differ."""
    same = defaultdict(list)
    for flat in flats:
        same[flat["method"]].append(flat)
    telling = {}
    for methods, members in same.items():
        keys = dict.fromkeys(key for flat in members for key in flat if key.startswith("method."))
        telling[methods] = [key for key in keys if len({_value(flat, key) for flat in members}) > 1]
    return telling


def _label(flat: Flat, key: str, telling: dict[tuple[str, ...], list[str]]) -> str:
    if key != "method":
        return _value(flat, key)
    settings = [f"{name.rpartition('.')[2]}={_value(flat, name)}" for name in telling[flat["method"]]]
    return " + ".join(flat["method"]) + (f" ({', '.join(settings)})" if settings else "")


def _block(flat: Flat) -> tuple[str, ...]:
    return tuple(
        f"{key}={text(value)}"
        for key, value in flat.items()
        if key.split(".")[0] in ALIKE and key not in WITHOUT_EFFECT
    )


def _order(label: str) -> tuple[Any, ...]:
    try:
        return (0, float(label), "")
    except ValueError:
        return (1, not label.startswith(BASELINE), label)
