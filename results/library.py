"""Every record at hand, by cell id: the user's own first, then those committed beside qexp."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from qexp.results.schema import Record
from qexp.results.store import Store

REFERENCE = Path(__file__).parent / "reference"
"""Committed tables; in an installed qexp there are none."""


def committed() -> list[Path]:
    """The folders of committed tables, each the root of a :class:`Store`."""
    return sorted(folder.parent for folder in REFERENCE.glob("*/records"))


class Library:
    """Records read once, so that many tables can be made of them."""

    def __init__(self, own: Path, others: Sequence[Path] = ()):
        found = [record for root in others for record in Store(root).query()]
        self._others = {record.cell_id: record for record in found}
        self._own = {record.cell_id: record for record in Store(own).query()}

    def find(self, cell_id: str) -> Record | None:
        return self._own.get(cell_id) or self._others.get(cell_id)

    def is_own(self, record: Record) -> bool:
        return record.cell_id in self._own

    @property
    def own(self) -> list[Record]:
        """The user's records."""
        return list(self._own.values())

    @cached_property
    def scales(self) -> frozenset[str]:
        """Every scale at which some record was measured."""
        records = (*self._own.values(), *self._others.values())
        return frozenset(str(record.config.get("scale")) for record in records)
