"""Tables as a sweep: the same cells as one after another, composed again by their overrides, under the same id."""

from __future__ import annotations

import pytest

from qexp.conf.errors import UserError
from qexp.results.schema import Record
from qexp.runner.agenda import make_agenda
from qexp.runner.plan import cells
from qexp.runner.sweep.plan import SweepPlan, changes
from qexp.runner.sweep.tables import plan_tables

TABLES = ("quadapter/gpt2", "quadapter/data_size")
SMOKE = ["scale=smoke"]


def planned(committed: tuple[Record, ...] = (), only_missing: bool = False, *settings: str) -> SweepPlan:
    tables = {name: cells(name, SMOKE, [1, 2]) for name in TABLES}
    agenda = make_agenda(tables, [], committed, only_missing)
    return plan_tables(tables, agenda, SMOKE, [1, 2], ["quadapter", "--scale smoke"], settings or ("launcher=local",))


def test_each_experiment_is_one_cell_that_its_overrides_compose() -> None:
    plan = planned()
    agenda = make_agenda({name: cells(name, SMOKE, [1, 2]) for name in TABLES}, [])
    assert [cell.cell_id for cell in plan.cells] == [item.cell for item in agenda.items]
    assert {cell.table for cell in plan.cells} == {"quadapter.gpt2", "quadapter.data_size"}
    assert changes(plan) == []
    assert plan.command == "qexp reproduce quadapter --scale smoke"
    assert plan.cells[0].label.startswith("quadapter/gpt2: ") and plan.cells[0].label.endswith("seed=1")


def test_what_is_committed_is_left_out_only_where_that_is_asked_for() -> None:
    whole = planned()
    first = whole.cells[0]
    record = Record(first.cell_id, "finished", first.config, {"wall_seconds": 1.0, "training_id": "0"})
    assert planned((record,)).sweep_id == whole.sweep_id
    assert planned((record,), True).cells == whole.cells[1:]


def test_a_table_has_its_cells_already() -> None:
    with pytest.raises(UserError, match="a search is `qexp sweep`"):
        planned((), False, "sweep.search=optuna")
    with pytest.raises(UserError, match="unknown launcher"):
        planned((), False, "launcher=lokal")
