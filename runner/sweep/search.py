"""Where a worker's next cell comes from when all that are known have been given out."""

from __future__ import annotations

from typing import Protocol

from qexp.runner.sweep.folder import SweepFolder
from qexp.runner.sweep.plan import Cell
from qexp.runner.tracking import Tracker


class Pruned(Exception):
    """A cell was stopped since others were better at the same step. It leaves no record."""


class Search(Protocol):
    def propose(self) -> bool:
        """Add one cell to the sweep; False when there are to be no more."""

    def watched(self, tracker: Tracker, cell: Cell) -> Tracker:
        """``tracker``, or one around it that ends the cell by raising :class:`Pruned`."""


class Planned:
    """All cells were planned at once."""

    def propose(self) -> bool:
        return False

    def watched(self, tracker: Tracker, cell: Cell) -> Tracker:
        return tracker


def make_search(folder: SweepFolder) -> Search:
    if not folder.plan.proposes:
        return Planned()
    from qexp.runner.sweep.study import StudySearch

    return StudySearch(folder)
