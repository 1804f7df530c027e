"""The integer model of a finished run: what is in the folder is what the run executed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from qexp.conf.errors import UserError
from qexp.conf.schema import ExperimentConfig
from qexp.models.certificate import Recorder
from qexp.models.sources import INTEGER_WEIGHTS
from qexp.results.store import Store
from qexp.runner.compose import compose
from qexp.runner.devices import resolve_device
from qexp.runner.experiment import run_experiment
from qexp.runner.export import Exported, check_target, export_integer, load_exported
from qexp.runner.preparation import prepare_task
from qexp.runner.progress import SilentProgress
from qexp.runner.tracking import NullTracker

Configure = Callable[..., ExperimentConfig]
RUNS = {"tiny_bert": "vanilla", "tiny_gpt2": "clipped_softmax", "tiny_llama": "gated_attention"}


def finished(cfg: ExperimentConfig) -> ExperimentConfig:
    run_experiment(cfg, Store(Path(cfg.results_dir)), NullTracker(), SilentProgress())
    return cfg


def exported(cfg: ExperimentConfig, folder: Path) -> Exported:
    return export_integer(cfg, "w8a8", folder, SilentProgress())


@pytest.fixture
def small(configure: Configure) -> Configure:
    common = ("train.max_steps=2", "eval.outliers=false", "kernels.int8=reference")
    return lambda *overrides: configure(*common, *overrides)


@pytest.mark.parametrize(("model", "method"), list(RUNS.items()))
def test_the_folder_evaluates_to_the_executed_figures_of_the_run(
    small: Configure, tmp_path: Path, model: str, method: str
) -> None:
    cfg = finished(small(f"model={model}", f"method={method}", "eval.integer=true"))
    record = next(iter(Store(Path(cfg.results_dir)).query()))
    exported(cfg, tmp_path / "model")
    loaded = load_exported(tmp_path / "model", backend="reference")
    recorder, (task, _) = Recorder(), prepare_task(cfg, SilentProgress())
    with recorder:
        metrics = task.evaluate(loaded.module, cfg.eval.batch_size, resolve_device("cpu"))
    assert metrics == record.metrics["w8a8.integer"]
    assert recorder.certificate(loaded)["products"] == record.integer["w8a8"]["certificate"]["products"]


def test_exporting_again_gives_the_same_bytes_and_the_sizes_are_those_of_the_files(
    small: Configure, tmp_path: Path
) -> None:
    cfg = finished(small())
    first, second = exported(cfg, tmp_path / "a"), exported(cfg, tmp_path / "b")
    files = [done.folder / INTEGER_WEIGHTS for done in (first, second)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert first.size == files[0].stat().st_size
    (kept,) = Path(cfg.results_dir).glob("trained/*/model.safetensors")
    assert first.float32_size == pytest.approx(kept.stat().st_size, rel=0.02)
    assert first.size < 0.4 * first.float32_size, "the head of a tiny network weighs much, and stays in float"


def test_an_export_is_replaced_and_nothing_else(small: Configure, tmp_path: Path) -> None:
    done = exported(finished(small()), tmp_path / "model")
    with pytest.raises(UserError, match="--force"):
        check_target(done.folder, force=False)
    check_target(done.folder, force=True)
    (kept,) = Path(small().results_dir).glob("trained/*")
    with pytest.raises(UserError, match="holds no exported model"):
        check_target(kept, force=True)


def test_without_the_kept_network_nothing_is_trained_anew(small: Configure, tmp_path: Path) -> None:
    cfg = finished(small("train.keep_model=false"))
    with pytest.raises(UserError, match="was not kept .*train.keep_model=true"):
        exported(cfg, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_run_does_not_start_from_an_exported_folder(small: Configure, tmp_path: Path) -> None:
    done = exported(finished(small()), tmp_path / "model")
    with pytest.raises(UserError, match="exported integer model.*load_exported"):
        compose([f"model={done.folder}", "task=pydocs"])


def test_a_model_as_it_is_needs_no_kept_network(small: Configure, tmp_path: Path) -> None:
    cfg = finished(replace(small(), train=replace(small().train, max_steps=0)))
    assert torch.is_tensor(load_exported(exported(cfg, tmp_path / "m").folder).module.dummy_inputs["input_ids"])
