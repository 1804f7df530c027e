"""Predictions: an earlier run predicts itself, work scales it, and what nothing is known of stays unknown."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from qexp.conf.schema import ExperimentConfig
from qexp.results.schema import Record
from qexp.runner.compose import compose, to_dict
from qexp.runner.identity import cell_id, training_id
from qexp.runner.predict import Cost, Predictor, Training, total
from qexp.runner.work import count_weights

BASE = ("model=tiny_opt", "task=wikitext2", "tracking=none", "device=cpu", "task.eval_examples=100")


def record_of(cfg: ExperimentConfig, train: float = 60.0, rest: float = 10.0, **provenance: object) -> Record:
    facts = {"training_id": training_id(cfg), "wall_seconds": train + rest, "peak_memory_bytes": 1000, "gpu": []}
    return Record(cell_id(cfg), "finished", to_dict(cfg), {**facts, **provenance}, timings={"train": train})


@pytest.fixture
def cost() -> Callable[..., Cost]:
    """What a run of the overrides costs by one record of ``BASE``: 60 s of training and 10 s of everything else."""
    predictor = Predictor([record_of(compose(BASE), disk_bytes=5000)])
    return lambda *overrides: predictor.cost(compose([*BASE, *overrides]))


def seconds(cost: Cost) -> list[float | None]:
    return [training.seconds for training in cost.trainings.values()]


def test_a_run_predicts_itself(cost: Callable[..., Cost]) -> None:
    assert cost() == Cost({training_id(compose(BASE)): Training(60.0, 5000)}, 10.0, 1000)


@pytest.mark.parametrize(
    ("override", "times"),
    [("seed=7", 1), ("train.max_steps=750", 0.5), ("train.batch_size=16", 2), ("train.gradient_accumulation=3", 3)],
)
def test_training_scales_with_its_steps_and_batches(cost: Callable[..., Cost], override: str, times: float) -> None:
    assert seconds(cost(override)) == [pytest.approx(60 * times)]


def test_training_scales_with_the_weights_of_a_network_from_scratch(cost: Callable[..., Cost]) -> None:
    small, tiny = (compose([*BASE, f"model={name}"]) for name in ("small_opt", "tiny_opt"))
    weights = [count_weights(vars(cfg.model)) for cfg in (small, tiny)]
    assert weights[0] and weights[1] and weights[0] > weights[1]
    assert seconds(cost("model=small_opt")) == [pytest.approx(60 * weights[0] / weights[1])]


def test_evaluation_scales_with_examples_and_settings(cost: Callable[..., Cost]) -> None:
    assert cost("task.eval_examples=300").rest == pytest.approx(30)
    assert cost("quant.bits=[w8a8,w8a4]", "task.eval_examples=100").rest == pytest.approx(10 * 3 / 2)


@pytest.mark.parametrize(
    "override", ["model=gpt2", "train.max_steps=100000", "device=cuda", "train.precision=fp16", "model=tiny_bert"]
)
def test_what_is_far_from_every_record_is_unknown(cost: Callable[..., Cost], override: str) -> None:
    assert seconds(cost(override)) == [None]


def test_nothing_is_known_without_records() -> None:
    cfg = compose([*BASE, "model=smollm2", "train=none"])
    assert Predictor([]).cost(cfg) == Cost({}, None, None)


def test_loading_a_trained_network_does_not_pass_for_training() -> None:
    cfg = compose(BASE)
    trained, loaded = record_of(cfg, train=60.0), record_of(cfg, train=0.5)
    for records in ([trained, loaded], [loaded, trained]):
        assert seconds(Predictor(records).cost(cfg)) == [60.0]
    assert seconds(Predictor([loaded]).cost(cfg)) == [None]


def test_a_resumed_training_counts_the_steps_that_it_did() -> None:
    cfg = compose([*BASE, "train.max_steps=1000"])
    made = record_of(cfg, train=30.0)
    made.training["resumed_from"] = 500
    assert seconds(Predictor([made]).cost(cfg)) == [60.0]


def test_the_pretraining_of_a_run_is_a_network_of_its_own(cost: Callable[..., Cost]) -> None:
    found = cost("model.pretrain={task: wikitext2}", "task=ptb", "task.eval_examples=100")
    assert len(found.trainings) == 2


def test_each_network_is_trained_once_and_kept_ones_never(cost: Callable[..., Cost]) -> None:
    costs = [cost(f"quant.bits=[{bits}]") for bits in ("w8a8", "w6a6", "w4a4")]
    together = total(costs)
    assert (together.trainings, together.unshared, together.saved) == (1, 3, 120.0)
    assert (together.seconds, together.unknown, together.disk, together.memory) == (90.0, 0, 5000, 1000)
    kept = total(costs, kept={training_id(compose(BASE))})
    assert (kept.trainings, kept.seconds, kept.disk) == (0, 30.0, 0)


def test_a_sum_says_how_much_of_it_is_unknown(cost: Callable[..., Cost]) -> None:
    together = total([cost(), cost("model=gpt2")])
    assert (together.seconds, together.unknown, together.unknown_disk) == (70.0, 2, 1)
