"""The W&B sweep that stands for one of ours: in wandb's own words, and each cell the same as here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from qexp.conf.errors import RunError, UserError
from qexp.runner.compose import compose
from qexp.runner.identity import cell_id
from qexp.runner.sweep import wandb_sweep
from qexp.runner.sweep.wandb_sweep import register, write_wandb

RATE = "train.learning_rate=tag(log,interval(1e-5,1e-2))"


def written(folder: Any) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(write_wandb(folder).read_text())
    return content


def test_a_grid_gives_the_same_cells(new_sweep: Any) -> None:
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    folder = new_sweep("method=vanilla,[qat,gated_attention]", "train.dropout=null,0.1", "train.max_steps=3")
    config = written(folder)
    assert config["method"] == "grid" and "run_cap" not in config
    assert config["metric"] == {"name": "w8a8/perplexity", "goal": "minimize"}
    assert config["parameters"] == {
        "method": {"values": ["vanilla", "[qat,gated_attention]"]},
        "train.dropout": {"values": ["null", 0.1]},
    }
    assert config["command"][:3] == ["${env}", "qexp", "run"] and config["command"][-1] == "${args_no_hyphens}"
    given = {key: {"value": axis["values"][1]} for key, axis in config["parameters"].items()}
    words = [*config["command"][3:-1], *create_sweep_command_args({"args": given})["args_no_hyphens"]]
    assert cell_id(compose(words)) == folder.plan.cells[3].cell_id


@pytest.mark.parametrize(("search", "method"), [("random", "random"), ("optuna", "bayes")])
def test_searches_and_their_intervals(new_sweep: Any, search: str, method: str) -> None:
    whole = "train.max_steps=int(interval(1,8))"
    config = written(
        new_sweep(f"sweep.search={search}", "sweep.trials=5", RATE, whole, "train.dropout=interval(0,0.5)")
    )
    assert config["method"] == method and config["run_cap"] == 5
    assert config["parameters"] == {
        "train.learning_rate": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-2},
        "train.max_steps": {"distribution": "int_uniform", "min": 1, "max": 8},
        "train.dropout": {"distribution": "uniform", "min": 0.0, "max": 0.5},
    }


@pytest.mark.parametrize(
    ("task", "metric"),
    [("pydocs_labels", "accuracy"), ("squad", "f1"), ("digits", "accuracy"), ("wikitext2_chars", "bits_per_character")],
)
def test_the_metric_is_the_tasks_first(new_sweep: Any, task: str, metric: str) -> None:
    model = {"digits": "tiny_vit", "wikitext2_chars": "charlm_rnn"}.get(task, "tiny_bert")
    found = written(new_sweep(f"task={task}", f"model={model}", "seed=1,2", "quant=none"))["metric"]
    assert found == {"name": f"float/{metric}", "goal": "maximize" if metric in ("accuracy", "f1") else "minimize"}


def test_what_wandb_cannot_say_is_refused(new_sweep: Any) -> None:
    folder = new_sweep("sweep.search=random", "sweep.trials=2", "train.max_steps=int(tag(log,interval(1,8)))")
    with pytest.raises(UserError, match="no whole numbers on a logarithmic scale"):
        write_wandb(folder)


def test_registering_needs_a_login_and_passes_on_what_wandb_says(
    new_sweep: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    path = write_wandb(new_sweep("seed=1,2"))
    assert register(path) is None
    said = ["wandb: Run sweep agent with: wandb agent me/qexp/abc123", "wandb: ERROR permission denied"]
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(wandb_sweep, "require_wandb", lambda: None)
    answer = type("Done", (), {"stdout": "", "stderr": said.pop(0)})
    monkeypatch.setattr("subprocess.run", lambda *_, **__: answer)
    assert register(path) == "wandb agent me/qexp/abc123"
    answer.stderr = said.pop()
    with pytest.raises(RunError, match=r"not take the sweep \(wandb: ERROR permission denied\); later: wandb sweep"):
        register(path)
