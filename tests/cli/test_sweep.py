"""``qexp sweep`` and the commands that look at one. Cells are made-up records; workers have their own tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qexp.results.store import Store
from qexp.runner.sweep.claims import Claims
from qexp.runner.sweep.events import EventLog
from qexp.runner.sweep.folder import SweepFolder
from qexp.runner.sweep.plan import plan_sweep

BASE = ("model=tiny_bert", "task=pydocs", "scale=smoke", "tracking=none")
Sweep = Callable[..., SweepFolder]


@pytest.fixture
def planned(qexp: Any) -> Sweep:
    """A planned sweep in ``runs`` of the test's folder, of which nothing has run."""
    return lambda *overrides: SweepFolder.create(plan_sweep([*BASE, *overrides])[0])


def finish(folder: SweepFolder, new_record: Any, *seeds: int, status: str = "finished") -> None:
    for seed in seeds:
        record = new_record(*BASE, f"seed={seed}", status=status)
        Store(folder.store.root).save(record)


def test_the_plan_is_shown_and_nothing_is_written(qexp: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qexp.runner.sweep.forecast.committed", list)
    outcome = qexp("sweep", *BASE, "method=vanilla,gated_attention", "seed=range(0,2)", "--dry-run")
    assert outcome.code == 0
    lines = [line.split(maxsplit=2) for line in outcome.out.splitlines()]
    assert [(status, label) for _, status, label in lines] == [
        ("waiting", f"method={method} seed={seed}") for method in ("vanilla", "gated_attention") for seed in (0, 1)
    ]
    assert outcome.err.strip().endswith(": 4 cells: 4 waiting; 1 worker: no earlier record tells how long")
    assert not list(tmp_path.iterdir())


def test_a_file_gives_the_overrides_and_the_command_line_wins(qexp: Any, tmp_path: Path) -> None:
    lines = [text.replace("=", ": ") for text in BASE]
    (tmp_path / "sweep.yaml").write_text("\n".join([*lines, "method: vanilla,ptq", "seed: 1,2,3"]))
    out = qexp("sweep", "--file", "sweep.yaml", "seed=7", "--dry-run").out
    assert [line.split(maxsplit=2)[2] for line in out.splitlines()] == ["method=vanilla", "method=ptq"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sweep", "method=vanilla,nonsense"], "cell method=nonsense: unknown method"),
        (["sweep", "launcher.workers=none"], "launcher.workers"),
        (["sweep", "--file", "missing.yaml"], "cannot read missing.yaml"),
        (["sweep", "seed=1,2", "sweep.search=tpe"], "sweep.search=tpe: expected"),
        (["sweep", "seed=1,2", "sweep.search=random"], "needs sweep.trials=N"),
        (["sweep", "train.learning_rate=interval(0,1)"], "a grid cannot have every number of an interval"),
        (["sweep", "seed=1,2", "sweep.search=random", "sweep.trials=2", "sweep.setting=w4a4"], "no such figure"),
        (["status"], "no sweep in runs"),
        (["resume"], "no sweep in runs"),
        (["cancel", "3f"], "no sweep in runs"),
        (["logs", "3f"], "no log of a cell in runs"),
    ],
)
def test_bad_input_is_one_line_and_code_2(qexp: Any, arguments: list[str], words: str) -> None:
    outcome = qexp(*arguments)
    assert outcome.code == 2 and words in outcome.err and outcome.err.count("\n") == 1


def test_a_finished_sweep_is_told_at_once(qexp: Any, planned: Sweep, new_record: Any) -> None:
    folder = planned("seed=1,2")
    finish(folder, new_record, 1, 2)
    for command in (["sweep", *BASE, "seed=1,2"], ["resume"]):
        outcome = qexp(*command)
        assert outcome.code == 0 and outcome.out.strip().endswith(": 2 cells: 2 finished")
    assert folder.launch() == 0
    outcome = qexp("resume", "-q")
    assert [Path(line).stem for line in outcome.out.splitlines()] == [cell.cell_id for cell in folder.plan.cells]


def test_run_multirun_is_a_sweep(qexp: Any, planned: Sweep, new_record: Any) -> None:
    finish(planned("seed=1,2"), new_record, 1, 2)
    assert qexp("run", "-m", *BASE, "seed=1,2").out == qexp("sweep", *BASE, "seed=1,2").out
    assert qexp("run", "-m", "--json", *BASE, "seed=1,2").code == 2


def test_a_diverged_cell_gives_code_1_and_is_named(qexp: Any, planned: Sweep, new_record: Any) -> None:
    finish(planned("seed=1,2"), new_record, 1)
    finish(planned("seed=1,2"), new_record, 2, status="diverged")
    outcome = qexp("sweep", *BASE, "seed=1,2")
    assert outcome.code == 1
    assert outcome.err == "qexp: diverged: seed=2: the loss was not a number at step 3\n"


def test_status_shows_every_cell(qexp: Any, planned: Sweep, new_record: Any) -> None:
    folder = planned("seed=1,2,3,4")
    finish(folder, new_record, 1)
    _, running, failed, _ = folder.plan.cells
    launch = folder.new_launch()
    EventLog(folder.events, "one", launch).append("failed", failed.cell_id, message="no [such] data")
    folder.progress(running).write_text('{"phase": "training", "done": 2, "total": 6, "note": "loss 1.0"}')
    with Claims(folder.claims).held((f"cell-{running.cell_id}",)):
        out, data = qexp("status").out, json.loads(qexp("status", folder.plan.sweep_id[:6], "--json").out)
    for words in ("finished", "training 2/6 loss 1.0", "no [such] data", "waiting", "4 cells: 1 finished, 1 failed"):
        assert words in out
    assert [cell["status"] for cell in data["cells"]] == ["finished", "running", "failed", "waiting"]
    assert data["counts"] == {"finished": 1, "failed": 1, "running": 1, "waiting": 1}
    assert data["cells"][1]["progress"]["done"] == 2
    assert qexp("status", "--all").out.strip().endswith("seed=1,2,3,4")


def test_cancelling_is_seen_by_workers_and_by_status(qexp: Any, planned: Sweep) -> None:
    folder = planned("seed=1,2")
    outcome = qexp("cancel")
    assert outcome.code == 0 and "is cancelled; `qexp resume` goes on with it" in outcome.out
    assert folder.cancelled()
    assert "(cancelled)" in qexp("status").out


def test_logs_of_a_cell(qexp: Any, planned: Sweep) -> None:
    folder = planned("seed=1,2")
    one, other = folder.plan.cells
    folder.log(one).write_text("training: 6 steps\n")
    folder.log(other).write_text("other\n")
    assert qexp("logs", one.cell_id[:6]).out == "training: 6 steps\n"
    outcome = qexp("logs", "")
    assert outcome.code == 2 and "is the beginning of 2 cells" in outcome.err


def test_a_sweep_that_would_be_another_one_today_is_refused_with_the_difference(qexp: Any, planned: Sweep) -> None:
    folder = planned("seed=1,2")
    path = folder.path / "plan.json"
    data = json.loads(path.read_text())
    data["cells"][0]["config"]["task"]["recipe"], data["cells"][0]["cell_id"] = 0, "0" * 16
    path.write_text(json.dumps(data))
    outcome = qexp("resume")
    assert outcome.code == 2
    assert "would be another one today: task.recipe: 0 -> 1." in outcome.err
    assert "qexp sweep model=tiny_bert task=pydocs scale=smoke tracking=none seed=1,2" in outcome.err


def test_more_workers_than_the_memory_holds(qexp: Any, planned: Sweep) -> None:
    folder = planned("seed=1,2")
    outcome = qexp("resume", "launcher.workers=2", "launcher.memory=9000")
    assert outcome.code == 2 and outcome.err.count("\n") == 1
    assert "launcher.workers=2 would need 18000.0 GiB" in outcome.err
    assert folder.launch() == 0


def test_only_settings_of_the_sweep_change_on_resume(qexp: Any, planned: Sweep) -> None:
    planned("seed=1,2")
    outcome = qexp("resume", "seed=3")
    assert outcome.code == 2 and "a sweep goes on as it was planned" in outcome.err


def test_a_search_is_shown_by_what_it_may_choose_and_nothing_is_written(qexp: Any, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    words = ["train.learning_rate=tag(log,interval(1e-5,1e-2))", "method=vanilla,ptq", "sweep.search=optuna"]
    outcome = qexp("sweep", *BASE, *words, "sweep.trials=9", "--dry-run")
    assert outcome.out == "train.learning_rate: 1e-05 to 0.01, log-uniform\nmethod: vanilla, ptq\n"
    assert "Optuna proposes each cell" in outcome.err and ": 9 cells: 9 waiting; 1 worker: " in outcome.err
    assert not list(tmp_path.iterdir())


def test_status_names_the_best_of_a_search_and_says_that_it_was_selected(
    qexp: Any, planned: Sweep, new_record: Any
) -> None:
    folder = planned("sweep.search=random", "sweep.trials=3", "seed=1,2,3", "sweep.setting=float")
    for value, cell in zip((9.5, 8.5, 10.5), folder.plan.cells, strict=True):
        Store(folder.store.root).save(new_record(*BASE, *cell.overrides, float=value))
    best = folder.plan.cells[1]
    out, data = qexp("status").out, json.loads(qexp("status", "--json").out)
    assert f"best of 3 finished: float perplexity 8.5 with {best.label} ({best.cell_id[:8]})\n" in out
    assert "chosen by that figure, which makes it look better than it is" in out
    assert data["best"]["cell_id"] == best.cell_id and data["best"]["value"] == 8.5
    assert qexp("status", "--all").out.strip().endswith("sweep.search=random sweep.trials=3 sweep.setting=float")


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("sweep.seed=3", "sweep.seed: a sweep goes on as it was planned"),
        ("sweep.trials=1", "sweep.trials=1: this search has 4 already; give more"),
        ("sweep.search=random", "sweep.search: a sweep goes on as it was planned"),
    ],
)
def test_a_search_goes_on_as_it_was_planned(qexp: Any, planned: Sweep, word: str, reason: str) -> None:
    pytest.importorskip("optuna")
    planned("sweep.search=optuna", "sweep.trials=4", "seed=range(0,9)")
    outcome = qexp("resume", word)
    assert outcome.code == 2 and reason in outcome.err


def test_more_trials_of_random_cells_are_another_sweep(qexp: Any, planned: Sweep) -> None:
    planned("sweep.search=random", "sweep.trials=2", "seed=range(0,9)")
    outcome = qexp("resume", "sweep.trials=5")
    assert outcome.code == 2 and "`qexp sweep` with more trials has them too" in outcome.err


def test_a_sweep_is_handed_to_wandb_where_there_is_a_login(
    qexp: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    outcome = qexp("sweep", *BASE, "seed=1,2", "--wandb")
    (path,) = (tmp_path / "runs").glob("sweeps/*/wandb.yaml")
    assert outcome.code == 0 and outcome.err == ""
    assert outcome.out == f"written: {path}\nno W&B login here; after one: wandb sweep {path}\n"
    assert not list(path.parent.glob("launches/*"))


def test_track_sync_without_a_login(qexp: Any, record: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert qexp("track", "sync").out == "0 runs uploaded\n"
    run = tmp_path / "runs" / "wandb" / f"offline-run-1-{record.cell_id}" / f"run-{record.cell_id}.wandb"
    run.parent.mkdir(parents=True)
    run.touch()
    assert qexp("track", "sync", "--dry-run").out == "1 run would be uploaded\n"
    outcome = qexp("track", "sync")
    assert outcome.code == 2 and outcome.err == "qexp: error: no W&B login here: run `wandb login` first\n"
