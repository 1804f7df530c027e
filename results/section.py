"""A specified table with all that the records at hand say of it: what claims and reports are printed from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from qexp.conf.tables import TableConfig
from qexp.results.claims import CONFIRMED, NOT_HERE, REFUTED, TOO_FEW, Verdict
from qexp.results.ledger import Deviation
from qexp.results.table import Table

NO_RECORD = "no record yet"
VERDICTS = (CONFIRMED, REFUTED, TOO_FEW, NOT_HERE, NO_RECORD)
"""Every verdict, the most decided first."""
MARKS = {CONFIRMED: "✓", REFUTED: "✗", TOO_FEW: "?", NOT_HERE: "–", NO_RECORD: "·"}


@dataclass(frozen=True)
class Section:
    name: str
    """``<paper>/<table>``."""
    spec: TableConfig
    scale: str
    """Of the records; where there is none, of those that ``command`` would make."""
    command: str
    """Makes the records that are missing."""
    table: Table | None = None
    """None where there is neither a record nor a figure of the paper's to show."""
    ledger: tuple[Deviation, ...] = ()
    commands: Mapping[str, str] = field(default_factory=dict)
    """The command that makes a record again, by cell id."""

    @property
    def paper(self) -> str:
        """The paper's folder; empty for a table of no paper."""
        return self.name.rpartition("/")[0]

    @property
    def measured(self) -> bool:
        """Whether there is any record."""
        return self.table is not None and bool(self.table.records)

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """One for each claim; those of a table without a record say so."""
        if self.table is not None and self.measured:
            return self.table.verdicts
        return tuple(Verdict(claim, NO_RECORD, "") for claim in self.spec.claims)


def tally(sections: Iterable[Section]) -> dict[str, int]:
    """How many claims have each verdict, those that none has left out."""
    found = Counter(verdict.verdict for section in sections for verdict in section.verdicts)
    return {verdict: found[verdict] for verdict in VERDICTS if found[verdict]}


def tally_line(sections: Iterable[Section]) -> str:
    """``12 claims: 3 confirmed, 9 no record yet``."""
    found = tally(sections)
    total = sum(found.values())
    parts = ", ".join(f"{number} {verdict}" for verdict, number in found.items())
    return f"{total} {'claim' if total == 1 else 'claims'}{': ' + parts if parts else ''}"
