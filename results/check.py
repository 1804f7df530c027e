"""The regression gate's comparison: committed figures of small runs, and what a run found."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from qexp.conf.errors import UserError
from qexp.results.library import REFERENCE
from qexp.results.schema import Record

EXPECTATIONS = REFERENCE / "smoke.json"
Figures = Mapping[str, Mapping[str, float]]
"""Setting -> metric -> value."""


@dataclass(frozen=True)
class Tolerance:
    """How far a metric may move, as a share of the expected value (``relative``) or not, and why that far."""

    value: float
    relative: bool
    why: str

    def around(self, expected: float) -> float:
        return self.value * abs(expected) if self.relative else self.value


@dataclass(frozen=True)
class Cell:
    """One experiment at ``scale=smoke``: its overrides, and the figures it gave."""

    name: str
    overrides: tuple[str, ...]
    figures: Figures


@dataclass(frozen=True)
class Expectations:
    """All cells, and the tolerance of each of their metrics."""

    tolerances: Mapping[str, Tolerance]
    cells: tuple[Cell, ...]


def read(path: Path | None = None) -> Expectations:
    """The committed expectations. Raises ``UserError`` where there are none, or none that can be read."""
    path = path or EXPECTATIONS
    if not path.exists():
        raise UserError(f"{path.name} is not part of an installed qexp: run `qexp check` in a clone of the repository")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        tolerances = {metric: Tolerance(**one) for metric, one in data["tolerances"].items()}
        cells = tuple(Cell(one["name"], tuple(one["overrides"]), one["figures"]) for one in data["cells"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} holds no expectations ({error!r}); take it from version control again") from error
    return Expectations(tolerances, cells)


def write(expectations: Expectations, path: Path | None = None) -> None:
    (path or EXPECTATIONS).write_text(
        json.dumps(asdict(expectations), indent=1, allow_nan=False) + "\n", encoding="utf-8"
    )


def figures_of(record: Record) -> dict[str, dict[str, float]]:
    """All figures of a record, rounded to six digits, beyond which machines differ."""
    return {
        setting: {metric: float(f"{one.value:.6g}") for metric, one in by_name.items()}
        for setting, by_name in record.metrics.items()
    }


def moved(cell: Cell, found: Figures, tolerances: Mapping[str, Tolerance]) -> list[str]:
    """A line for each figure that is beyond its tolerance, not there any more, or not expected."""
    expected, now = dict(_flat(cell.figures)), dict(_flat(found))
    lines = []
    for setting, metric in sorted(expected.keys() | now.keys()):
        a, b = expected.get((setting, metric)), now.get((setting, metric))
        if metric not in tolerances:
            raise UserError(f"{EXPECTATIONS.name} has no tolerance for {metric}; add one, and why it is so wide")
        allowed = tolerances[metric].around(a or 0.0)
        # NaN is never within a tolerance.
        if a is None or b is None or not abs(a - b) <= allowed:
            lines.append(f"{cell.name} {setting} {metric}: expected {a}, found {b}, tolerance {allowed:.3g}")
    return lines


def _flat(figures: Figures) -> Iterator[tuple[tuple[str, str], float]]:
    for setting, by_name in figures.items():
        for metric, value in by_name.items():
            yield (setting, metric), value
