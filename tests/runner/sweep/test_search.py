"""Searches: what is drawn, what Optuna is told, and that neither a kill nor a second worker makes it another one."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from qexp.conf.errors import UserError
from qexp.conf.schema import ExperimentConfig
from qexp.results.schema import Metric
from qexp.results.store import Store
from qexp.runner.sweep.claims import Claims
from qexp.runner.sweep.events import EventReader
from qexp.runner.sweep.expand import axes
from qexp.runner.sweep.folder import SweepFolder
from qexp.runner.sweep.heart import Heart
from qexp.runner.sweep.objective import best_of, figure
from qexp.runner.sweep.plan import plan_sweep
from qexp.runner.sweep.search import make_search
from qexp.runner.sweep.space import Interval, draw
from qexp.runner.sweep.state import Watch
from qexp.runner.sweep.worker import Worker
from qexp.runner.tracking import VALIDATION

BASE = ("model=tiny_bert", "task=pydocs", "scale=smoke", "tracking=none")
RATE = "train.learning_rate=tag(log,interval(1e-5,1e-2))"
OPTUNA = ("sweep.search=optuna", "sweep.trials=6", RATE)


class Measured:
    """In place of ``run_experiment``: the perplexity is least at a learning rate of 1e-3."""

    def __init__(self, new_record: Any) -> None:
        self.ran: list[str] = []
        self.new_record = new_record
        self.reports: Callable[[ExperimentConfig], list[float]] = lambda config: []
        self.fails = False

    def __call__(self, config: ExperimentConfig, store: Store, tracker: Any, progress: Any) -> Any:
        record = self.new_record(config)
        self.ran.append(record.cell_id)
        if self.fails:
            raise UserError("no such data")
        for step, value in enumerate(self.reports(config), start=1):
            tracker.log({f"{VALIDATION}perplexity": value}, step=step)
        value = 10 + abs(math.log10(config.train.learning_rate) + 3)
        metrics = {name: {"perplexity": Metric(value, False, 9, "exp of the mean loss")} for name in ("float", "w8a8")}
        record = replace(record, metrics=metrics)
        store.save(record)
        return record


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, new_record: Any) -> Measured:
    experiment = Measured(new_record)
    monkeypatch.setattr("qexp.runner.sweep.worker.run_experiment", experiment)
    monkeypatch.setattr("gc.collect", lambda: 0)  # after each cell, and slow beside torch
    return experiment


@pytest.fixture
def work() -> Iterator[Callable[..., None]]:
    """``work(folder)``: a worker's loop in this process, to its end."""
    hearts = []

    def run(folder: SweepFolder, launch: int = 1) -> None:
        hearts.append(Heart(folder, parent=None, seconds=0.05))
        Worker(folder, launch, 3, threads=1, heart=hearts[-1]).run()

    yield run
    for heart in hearts:
        heart.end()


def trials(folder: SweepFolder) -> Any:
    optuna = pytest.importorskip("optuna")
    backend = optuna.storages.journal.JournalFileBackend(str(folder.path / "optuna.journal"))
    return optuna.load_study(study_name="sweep", storage=optuna.storages.JournalStorage(backend)).trials


def states(folder: SweepFolder) -> list[str]:
    return [trial.state.name for trial in trials(folder)]


def test_draws_are_seeded_different_and_few_are_the_first_of_many() -> None:
    space = axes(["method=vanilla,ptq", RATE, "seed=7"])
    many = draw(space, 40, seed=3)
    assert len(set(many)) == 40 and draw(space, 10, seed=3) == many[:10] and draw(space, 10, seed=4) != many[:10]
    rates = [float(rate.partition("=")[2]) for _, rate, _ in many]
    assert all(1e-5 <= rate <= 1e-2 for rate in rates)
    assert 10 < sum(rate < 10**-3.5 for rate in rates) < 30  # half of the orders of magnitude
    assert {method for method, _, _ in many} == {"method=vanilla", "method=ptq"}
    assert {seed for _, _, seed in many} == {"seed=7"}


def test_a_finite_space_is_drawn_whole_and_no_more() -> None:
    assert sorted(draw(axes(["seed=range(0,4)", "method=vanilla,ptq"]), 50, seed=0)) == sorted(
        (f"seed={seed}", f"method={method}") for seed in range(4) for method in ("vanilla", "ptq")
    )
    assert draw(axes(["seed=shuffle(1,2,3)"]), 3, seed=0) == draw(axes(["seed=3,1,2"]), 3, seed=0)


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("a=interval(0,1)", Interval("a", 0.0, 1.0)),
        ("++a=interval(0.5,1)", Interval("++a", 0.5, 1.0)),
        ("a=tag(log,interval(1e-5,1e-2))", Interval("a", 1e-5, 1e-2, log=True)),
        ("a=int(interval(1,8))", Interval("a", 1, 8, whole=True)),
        ("a=int(tag(log,interval(1,64)))", Interval("a", 1, 64, log=True, whole=True)),
    ],
)
def test_hydras_intervals(text: str, interval: Interval) -> None:
    assert axes([text]) == {"a": interval}
    assert interval.low <= interval.at(0.0) <= interval.at(0.5) <= interval.at(0.999999) <= interval.high


def test_whole_numbers_have_both_ends_alike() -> None:
    interval = Interval("a", 1, 4, whole=True)
    assert [interval.override(interval.at(share / 8)) for share in range(8)] == [f"a={n // 2 + 1}" for n in range(8)]


def test_random_cells_are_planned_like_a_grids(new_sweep: Any) -> None:
    few = new_sweep("sweep.search=random", "sweep.trials=3", RATE)
    many = new_sweep("sweep.search=random", "sweep.trials=5", RATE)
    assert len(few.plan.cells) == 3 and few.plan.cells == many.plan.cells[:3]
    assert few.plan.sweep_id != many.plan.sweep_id and few.plan.search.setting == "w8a8"
    assert SweepFolder.open(few.path).plan == few.plan
    assert few.plan.command.endswith(f"{RATE} sweep.search=random sweep.trials=3 sweep.setting=w8a8")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["sweep.search=nonsense", "seed=1,2"], "sweep.search=nonsense: expected"),
        (["sweep.search=random", "seed=1,2"], "sweep.search=random needs sweep.trials=N"),
        (["sweep.search=optuna", "seed=1,2"], "sweep.search=optuna needs sweep.trials=N"),
        (["sweep.trials=3", "seed=1,2"], "sweep.trials: a grid runs all its cells"),
        (["sweep.prune=true", "seed=1,2"], "sweep.prune: a grid runs all its cells"),
        (["sweep.search=random", "sweep.trials=3", "sweep.prune=true", "seed=1,2"], "needs sweep.search=optuna"),
        (["sweep.search=random", "sweep.trials=3", "seed=1"], "nothing to search"),
        ([RATE], "a grid cannot have every number of an interval"),
        (["train.learning_rate=interval(1,0)"], "an interval ends above its start"),
        (["train.learning_rate=tag(log,interval(0,1))"], "starts above 0"),
        (
            [*OPTUNA, "sweep.setting=w4a4"],
            "sweep.setting=w4a4: these cells have no such figure; they have: float, w8a8",
        ),
        ([*OPTUNA, "sweep.prune=true", "train.precision=bf16"], "takes train.precision=fp32 only"),
    ],
)
def test_bad_searches_are_refused_in_one_line(overrides: list[str], words: str) -> None:
    with pytest.raises(UserError) as error:
        plan_sweep([*BASE, *overrides])
    assert words in str(error.value) and "\n" not in str(error.value)


def test_without_optuna_there_is_one_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qexp.runner.sweep.settings.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs Optuna: pip install 'qexp\[optuna\]'"):
        plan_sweep([*BASE, *OPTUNA])


def test_optuna_is_told_every_record_and_finds_the_best(new_sweep: Any, work: Any, measured: Measured) -> None:
    folder = new_sweep(*OPTUNA, "sweep.trials=14")
    assert Watch(folder, 1).look().counts() == {"waiting": 14}
    work(folder)
    assert len(measured.ran) == len(set(measured.ran)) == 14
    assert states(folder) == ["COMPLETE"] * 14
    snapshot = Watch(folder, 1).look()
    assert snapshot.settled and snapshot.counts() == {"finished": 14}
    best = best_of(folder, snapshot)
    assert best is not None and best.among == 14
    assert best.value == min(trial.value for trial in trials(folder))
    assert str(best).startswith("best of 14 finished: w8a8 perplexity 10.") and best.cell.label in str(best)
    work(folder)
    assert len(measured.ran) == 14
    assert not list(folder.claims.iterdir())


def test_the_same_search_proposes_the_same_and_goes_on_with_more_trials(
    new_sweep: Any, work: Any, measured: Measured
) -> None:
    folder = new_sweep(*OPTUNA)
    work(folder)
    first = list(measured.ran)
    more = new_sweep(*OPTUNA, "sweep.trials=8")
    assert more.path == folder.path and SweepFolder.open(folder.path).plan.search.trials == 8
    work(more)
    assert len(measured.ran) == 8 and new_sweep(*OPTUNA).plan.search.trials == 8
    for path in (*folder.path.rglob("*.journal"), *folder.path.glob("trials/*")):
        path.unlink()
    work(more)
    assert [cell.cell_id for cell in more.cells()][: len(first)] == first  # told from the records, none run again
    assert len(measured.ran) == 8


def test_workers_propose_one_after_another(new_sweep: Any) -> None:
    pytest.importorskip("optuna")
    folder = new_sweep(*OPTUNA, "method=vanilla,ptq")
    proposed: list[bool] = []

    def propose() -> None:
        search = make_search(SweepFolder.open(folder.path))
        while search.propose():
            proposed.append(True)

    threads = [threading.Thread(target=propose) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(proposed) == 6 and list(folder.trials.read()) == list(range(6))
    assert len(folder.cells()) == 6 and states(folder) == ["RUNNING"] * 6


@pytest.mark.parametrize("lost", ["file", "journal", "torn"])
def test_whatever_a_kill_leaves_behind_the_search_goes_on(
    new_sweep: Any, work: Any, measured: Measured, lost: str
) -> None:
    folder = new_sweep(*OPTUNA, "sweep.trials=3", "method=vanilla,ptq")
    work(folder)
    cells = folder.cells()
    if lost == "file":  # killed between the study's trial and its file
        journal = (folder.path / "optuna.journal").read_text().splitlines(keepends=True)
        told = [number for number, line in enumerate(journal) if json.loads(line)["op_code"] == 6]
        (folder.path / "optuna.journal").write_text("".join(journal[: told[-1]]))
        (folder.path / "trials" / "2.json").unlink()
    elif lost == "journal":
        (folder.path / "optuna.journal").unlink()
    else:
        with (folder.path / "optuna.journal").open("a") as file:
            file.write('{"op_code":4,\n{"op_co')
    again = SweepFolder.open(folder.path).extended(4)
    work(again)
    assert again.cells()[: len(cells)] == cells
    assert len(measured.ran) == len(set(measured.ran)) and set(states(again)) == {"COMPLETE"}


def test_a_failed_trial_is_open_until_a_launch_succeeds(new_sweep: Any, work: Any, measured: Measured) -> None:
    folder = new_sweep(*OPTUNA, "sweep.trials=2")
    measured.fails = True
    work(folder)
    assert states(folder) == ["RUNNING"] * 2 and Watch(folder, 1).look().counts() == {"failed": 2}
    measured.fails = False
    work(folder, launch=2)
    assert states(folder) == ["COMPLETE"] * 2


def test_what_lies_above_the_median_is_pruned_and_leaves_no_record(
    new_sweep: Any, work: Any, measured: Measured
) -> None:
    measured.reports = lambda config: [1.0, 1.0] if len(measured.ran) <= 5 else [9.0, 9.0]
    folder = new_sweep(*OPTUNA, "sweep.trials=7", "sweep.prune=true", "train.max_steps=20")
    work(folder)
    snapshot = Watch(folder, 2).look()
    assert snapshot.settled and snapshot.counts() == {"finished": 5, "pruned": 2}
    assert states(folder) == ["COMPLETE"] * 5 + ["PRUNED"] * 2
    assert len(folder.store.query()) == 5
    (message, _) = [event.message for event in EventReader(folder.events).new() if event.kind == "pruned"]
    assert message == "perplexity 9 at step 1: worse than the median of the cells before"
    work(folder, launch=2)
    assert len(measured.ran) == 7


def test_a_record_without_the_figure_is_named(new_sweep: Any, work: Any, measured: Measured) -> None:
    folder = new_sweep(*OPTUNA, "sweep.setting=method")
    with pytest.raises(UserError, match=r"sweep\.setting=method: record \w{8} has no such figure; it has: float, w8a8"):
        work(folder)
    (record,) = folder.store.query()
    assert figure(record, "float")[0] == "perplexity"
    assert best_of(folder, Watch(folder, 1).look()) is None
    assert not any(Claims(folder.claims).holder(name) for name in Claims(folder.claims).names())


def test_cells_of_several_tasks_have_no_best(new_sweep: Any, work: Any, measured: Measured) -> None:
    folder = new_sweep("sweep.search=random", "sweep.trials=2", "task=pydocs,pydocs_labels")
    work(folder)
    assert best_of(folder, Watch(folder, 1).look()) is None
