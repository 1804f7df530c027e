"""What the rest of a sweep will take, from what earlier experiments of its kind took."""

from __future__ import annotations

from collections.abc import Iterable

from qexp.results.library import committed
from qexp.results.store import Store
from qexp.runner.predict import Cost, Predictor, Total, total
from qexp.runner.rerun import config_of
from qexp.runner.sweep.folder import SweepFolder
from qexp.runner.sweep.plan import Cell


def forecast(folder: SweepFolder, cells: Iterable[Cell]) -> Total:
    """The cost of ``cells`` one after another, as ``qexp plan`` predicts it; networks that lie trained cost nothing."""
    others = (record for root in committed() for record in Store(root).query())
    predictor = Predictor([*folder.store.query(), *others])
    known: dict[tuple[str, ...], Cost] = {}
    costs = [_cost(cell, predictor, known) for cell in cells]
    trained = folder.store.root / "trained"
    return total(costs, {one for cost in costs for one in cost.trainings if (trained / one).is_dir()})


def _cost(cell: Cell, predictor: Predictor, known: dict[tuple[str, ...], Cost]) -> Cost:
    """Predicted once for cells that differ in the seed only; each needs networks of its own, and so does each that a
    search has still to propose, of which only an example is known."""
    alike = tuple(text for text in cell.overrides if not text.startswith("seed="))
    if alike not in known:
        known[alike] = predictor.cost(config_of(cell.config))
    cost = known[alike]
    names = cell.trainings if cell.cell_id else (f"{cell.label}: {training}" for training in cell.trainings)
    return Cost(dict(zip(names, cost.trainings.values(), strict=True)), cost.rest, cost.memory)
