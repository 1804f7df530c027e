"""Figures during training: on examples that no reported figure rests on, and without a trace in the training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qexp.conf.schema import ExperimentConfig
from qexp.results.store import Store
from qexp.runner.experiment import run_experiment
from qexp.runner.identity import home_of
from qexp.runner.preparation import prepare_task
from qexp.runner.progress import SilentProgress
from qexp.runner.tasks import Task
from qexp.runner.tracking import VALIDATION, NullTracker

Configure = Callable[..., ExperimentConfig]


class Validating(NullTracker):
    """Wants figures every second step, and keeps them."""

    def __init__(self) -> None:
        self.validate_every = 2
        self.seen: dict[int, float] = {}

    def log(self, metrics: dict[str, float], step: int) -> None:  # type: ignore[override]
        if f"{VALIDATION}perplexity" in metrics:
            self.seen[step] = metrics[f"{VALIDATION}perplexity"]


@pytest.mark.parametrize("method", ["vanilla", "qat"])
def test_validation_changes_nothing(configure: Configure, tmp_path: Path, method: str) -> None:
    plain = configure(f"method={method}", "train.dropout=0.1", "eval.outliers=false")
    validated, tracker = replace(plain, results_dir=str(tmp_path / "other")), Validating()
    one = run_experiment(plain, Store(Path(plain.results_dir)), NullTracker(), SilentProgress())
    other = run_experiment(validated, Store(Path(validated.results_dir)), tracker, SilentProgress())
    assert one.metrics == other.metrics and one.training["curve"] == other.training["curve"]
    weights, same = (load_file(home_of(config) / "model.safetensors") for config in (plain, validated))
    assert all(torch.equal(tensor, same[name]) for name, tensor in weights.items())
    assert list(tracker.seen) == [2, 4] and all(value > 1 for value in tracker.seen.values())


def examples(task: Task) -> list[tuple[int, ...]]:
    evaluation: torch.utils.data.Dataset[dict[str, torch.Tensor]] = task.evaluation()
    return [tuple(evaluation[i]["input_ids"].tolist()) for i in range(len(evaluation))]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "task", [("task=pydocs_labels",), ("model=charlm_rnn", "task.kind=characters"), ("model=tiny_opt",)]
)
def test_held_out_examples_are_others_than_those_evaluated(configure: Configure, task: tuple[str, ...]) -> None:
    prepared = prepare_task(configure(*task, "task.eval_examples=4", "task.max_length=16"), SilentProgress())[0]
    held_out = prepared.held_out()
    assert held_out is not None
    reported, others = examples(prepared), examples(held_out)
    assert len(reported) == len(others) == 4 and not set(reported) & set(others)
    assert examples(prepared) == reported


def test_without_examples_to_spare_there_are_none(configure: Configure) -> None:
    for choices in (("task=pydocs_labels",), ("model=tiny_opt",)):
        for wanted in ("null", "1000000"):
            config = configure(*choices, f"task.eval_examples={wanted}", "task.max_length=16")
            assert prepare_task(config, SilentProgress())[0].held_out() is None
