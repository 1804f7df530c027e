"""Several processes train one network: the same network as one does, ended together, and resumed exactly.

Most are forked here, which saves each the import of torch; the one that diverges starts them as users' are.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qexp.conf.errors import RunError, UserError
from qexp.conf.schema import ExperimentConfig
from qexp.results.schema import Record
from qexp.results.store import Store
from qexp.runner import distributed
from qexp.runner.experiment import run_experiment
from qexp.runner.identity import cell_id, home_of, partial_of, training_id
from qexp.runner.progress import SilentProgress
from qexp.runner.tracking import NullTracker

Configure = Callable[..., ExperimentConfig]
TWO = ("train.devices=2", "device=cpu")


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "START_METHOD", "fork")


def run(cfg: ExperimentConfig, progress: SilentProgress | None = None) -> Record:
    return run_experiment(cfg, Store(Path(cfg.results_dir)), NullTracker(), progress or SilentProgress())


def weights(cfg: ExperimentConfig) -> dict[str, torch.Tensor]:
    return load_file(home_of(cfg) / "model.safetensors")


class AtStep(SilentProgress):
    """Does something at a step of training."""

    def __init__(self, step: int, act: Callable[[], object]):
        self.step, self.act, self.phase = step, act, ""

    def start(self, phase: str, total: int | None = None) -> None:
        self.phase = phase

    def advance(self, done: int, total: int | None = None, note: str = "") -> None:
        if self.phase == "training" and done == self.step:
            self.act()


@pytest.mark.parametrize(
    "overrides",
    [
        ("model=tiny_opt", "method=gated_attention", "train.ffn_output_penalty=0.5", "train.gradient_accumulation=2"),
        ("model=tiny_bert", "method=kurtosis_qat", "method.ranges=fixed", "method.bits=w16a16"),
    ],
    ids=["penalty and accumulated gradients", "quantizers and an extra loss"],
)
def test_two_processes_train_the_network_of_one(configure: Configure, forked: None, overrides: tuple[str, ...]) -> None:
    given = ("train.dropout=0", "train.logging_steps=1", "train.optimizer=sgd", "train.learning_rate=0.1", *overrides)
    one, two = configure(*given), configure(*given, *TWO)
    alone, together = run(one), run(two)
    assert together.training["steps"] == alone.training["steps"]
    assert cell_id(one) != cell_id(two) and training_id(one) != training_id(two)
    losses = [[step["loss"] for step in record.training["curve"]] for record in (alone, together)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and losses[0][-1] < losses[0][0] - 0.01
    for name, found in weights(two).items():
        # Far below the learning rate; a value between two steps of 16 bits may be rounded to either.
        torch.testing.assert_close(
            found, weights(one)[name], rtol=1e-4, atol=1e-5, msg=lambda text, at=name: f"{at} {text}"
        )


def test_stopped_and_started_again_is_the_same_run(configure: Configure, forked: None, tmp_path: Path) -> None:
    whole = run(configure(*TWO, f"results_dir={tmp_path / 'whole'}"))
    stopped = configure(*TWO, f"results_dir={tmp_path / 'stopped'}", "train.save_steps=100")
    with pytest.raises(KeyboardInterrupt):
        run(stopped, AtStep(1, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert len(list(partial_of(stopped).glob("checkpoint-*/rng_state_*.pth"))) == 2
    again = run(stopped)
    assert again.training["resumed_from"] >= 1
    assert again.metrics == whole.metrics and again.training["final_loss"] == whole.training["final_loss"]
    assert not partial_of(stopped).exists()


def test_a_process_that_dies_ends_the_others(configure: Configure, forked: None) -> None:
    import psutil

    def kill_last() -> None:
        psutil.Process().children()[-1].kill()

    with pytest.raises(RunError, match="a process of the training died"):
        run(configure(*TWO, "train.max_steps=1000"), AtStep(1, kill_last))
    assert not psutil.Process().children()


@pytest.mark.slow
def test_a_loss_that_diverges_ends_all(configure: Configure, capfd: pytest.CaptureFixture[str]) -> None:
    record = run(configure(*TWO, "train.learning_rate=1e25", "train.max_grad_norm=0", "train.max_steps=20"))
    assert record.status == "diverged"
    assert "the loss became nan, first in the " in record.message
    assert not {"find_unused_parameters", "Traceback"} & set(re.findall(r"\w+", capfd.readouterr().err))


def test_what_cannot_be_shared_out_is_one_line(configure: Configure) -> None:
    for overrides, told in (
        (("train.devices=3",), r"train\.devices=3 cannot share batches of train\.batch_size=4 equally"),
        (("train.precision=bf16",), r"train\.devices=2 trains in fp32 only"),
        (("device=cuda:1",), r"train\.devices=2 and device=cuda:1, which is one"),
    ):
        with pytest.raises(UserError, match=told):
            configure("train.devices=2", *overrides)
    if torch.cuda.device_count() < 4:
        with pytest.raises(UserError, match=r"train\.devices=4: torch sees \d CUDA devices here"):
            run(configure("train.devices=4"))


def test_one_device_is_no_part_of_an_id(configure: Configure) -> None:
    assert cell_id(configure("train.devices=1")) == cell_id(configure())
