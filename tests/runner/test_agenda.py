"""Agendas: each experiment once, its state, and what is left to run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from qexp.results.schema import Metric, Record
from qexp.runner.agenda import COMMITTED, DIVERGED, DONE, STALE, TO_DO, make_agenda
from qexp.runner.compose import to_dict
from qexp.runner.identity import cell_id, training_id
from qexp.runner.plan import by_id, cells

NAMES = ("kurtosis_qat/encoder", "kurtosis_qat/robustness")
TABLES = {name: cells(name, ["scale=smoke"], [7]) for name in NAMES}
CELLS = list(by_id(TABLES[NAMES[0]]).values())


def record(config, *, status: str = "finished", cell: str = "") -> Record:
    metrics = {"float": {"accuracy": Metric(0.5, True, 10, "share")}}
    return Record(
        cell_id=cell or cell_id(config),
        status=status,
        config=to_dict(config),
        provenance={"wall_seconds": 30.0, "peak_memory_bytes": 10**9, "training_id": training_id(config)},
        metrics=metrics if status == "finished" else {},
        timings={"train": 20.0},
    )


def test_experiments_of_several_tables_are_there_once() -> None:
    names = ("quantizable_transformers/bert_variants", "quantizable_transformers/pretrained_bert")
    agenda = make_agenda({name: cells(name, ["scale=smoke"], [7]) for name in names}, [])
    ids = [item.cell for item in agenda.items]
    assert len(ids) == len(set(ids)) == sum(agenda.counts().values())
    assert sum(sum(agenda.counts(name).values()) for name in names) > len(ids)
    assert any(item.tables == names for item in agenda.items)
    assert agenda.counts() == {TO_DO: len(ids)}


def test_states_say_what_became_of_an_experiment() -> None:
    done, diverged, committed, old, *_ = CELLS
    outdated = replace(old, task=replace(old.task, recipe=0))
    own = [record(done), record(diverged, status="diverged"), record(outdated)]
    for only_missing in (False, True):
        agenda = make_agenda(TABLES, own, [record(committed)], only_missing)
        states = {item.cell: item.state for item in agenda.items}
        assert [states[cell_id(c)] for c in (done, diverged, committed, old)] == [DONE, DIVERGED, COMMITTED, STALE]
        running = {item.cell for item in agenda.to_run()}
        assert running.isdisjoint({cell_id(done), cell_id(diverged)}) and cell_id(old) in running
        assert (cell_id(committed) in running) != only_missing


def test_shared_networks_are_trained_once_and_cost_nothing_where_they_are(tmp_path: Path) -> None:
    tables = {name: cells(name, ["scale=smoke", f"results_dir={tmp_path}"], [7]) for name in NAMES}
    known = record(CELLS[0], cell="0" * 16)
    before = make_agenda(tables, [known]).total()
    assert before.trainings < before.unshared and before.saved > 0
    (tmp_path / "trained" / training_id(CELLS[0])).mkdir(parents=True)
    after = make_agenda(tables, [known]).total()
    assert after.trainings == before.trainings - 1 and after.seconds < before.seconds
