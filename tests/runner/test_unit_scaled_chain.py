"""A unit-scaled network trained from scratch and then on another task: its own weights under a new head."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qexp.conf.errors import UserError
from qexp.conf.schema import ExperimentConfig, MethodChoice
from qexp.models.saving import SETTINGS, read_settings
from qexp.results.schema import Record
from qexp.results.store import Store
from qexp.runner.compose import compose
from qexp.runner.experiment import run_experiment
from qexp.runner.identity import home_of
from qexp.runner.preparation import prepare_task
from qexp.runner.pretraining import pretraining_run
from qexp.runner.progress import SilentProgress
from qexp.runner.tracking import NullTracker
from qexp.runner.trained import own_start, prepared_network

Configure = Callable[..., ExperimentConfig]
UNIT = ("method=unit_scaling", "quant=none", "eval.outliers=false")
LABELS = ("task=pydocs_labels", "task.train_examples=64", "task.eval_examples=16", "task.max_length=16")


def run(cfg: ExperimentConfig) -> Record:
    return run_experiment(cfg, Store(Path(cfg.results_dir)), NullTracker(), SilentProgress())


@pytest.fixture
def chain(configure: Configure, text_folder: Path) -> Callable[..., ExperimentConfig]:
    """Three steps on text, then two on labels."""

    def make(*overrides: str) -> ExperimentConfig:
        pretrain = (f"model.pretrain.task={text_folder}", "model.pretrain.max_steps=3")
        return configure(*UNIT, *LABELS, *pretrain, "train.max_steps=2", *overrides)

    return make


def body(folder: Path) -> dict[str, torch.Tensor]:
    saved = load_file(folder / "model.safetensors")
    return {name: weight for name, weight in saved.items() if name.startswith("bert.") and ".pooler." not in name}


def test_it_starts_from_the_weights_that_were_trained_unit_scaled(chain: Configure) -> None:
    config = chain()
    earlier = pretraining_run(config)
    assert [choice.name for choice in earlier.method] == ["unit_scaling"]
    assert earlier.train.max_grad_norm == 0.0 and earlier.task.objective == "masked_lm"
    record = run(config)
    assert record.status == "finished" and record.training["pretraining"]["steps"] == 3
    task, tokenizer = prepare_task(config, SilentProgress())
    model, _, _ = prepared_network(config, task, tokenizer)
    trained, ours = body(home_of(earlier)), model.module.state_dict()
    assert trained and all(torch.equal(ours[name], weight) for name, weight in trained.items())
    assert model.module.classifier.weight.std().item() == pytest.approx(1.0, abs=0.2)
    after = body(home_of(config))
    assert any(not torch.equal(after[name], weight) for name, weight in trained.items())
    assert not read_settings(home_of(config))["pretrained"]


def test_loaded_again_its_figures_are_the_same(chain: Configure) -> None:
    first = run(chain())
    again = run(chain("eval.batch_size=5"))  # another cell of the same network
    assert again.metrics["float"]["accuracy"].value == first.metrics["float"]["accuracy"].value
    assert again.training["curve"] == first.training["curve"]


def test_a_folder_of_such_a_network_serves_as_well(chain: Configure, configure: Configure) -> None:
    run(chain())
    folder = home_of(pretraining_run(chain()))
    by_folder = (f"model={folder}", *UNIT, *LABELS, "train.max_steps=2", "train=finetune")
    assert run(configure(*by_folder)).status == "finished"
    with pytest.raises(UserError, match=r"was trained with .*'tau': None.*, and this run has .*'tau': 0.3"):
        run(configure(*by_folder, "method.tau=0.3"))
    with pytest.raises(UserError, match="was saved by qexp with unit_scaling: a plain load would drop them"):
        run(configure(*by_folder[:1], *LABELS, "train.max_steps=2", "train=finetune"))


def test_a_folder_from_before_a_setting_was_trained_as_that_setting_implies(
    chain: Configure, configure: Configure
) -> None:
    run(chain())
    folder = home_of(pretraining_run(chain()))
    saved = read_settings(folder)
    del saved["methods"][0]["settings"]["attention"]
    (folder / SETTINGS).write_text(json.dumps(saved), encoding="utf-8")
    by_folder = (f"model={folder}", *UNIT, *LABELS, "train=finetune")
    assert own_start(configure(*by_folder)) == folder
    with pytest.raises(UserError, match="the two must be alike"):
        own_start(configure(*by_folder, "method.attention=plain"))


def test_ordinary_weights_stay_refused(chain: Configure, configure: Configure, text_folder: Path) -> None:
    plain = replace(chain(), method=(MethodChoice("vanilla"),))
    run(replace(pretraining_run(plain), eval=plain.eval, quant=plain.quant))
    folder = home_of(pretraining_run(plain))
    with pytest.raises(UserError, match="method=unit_scaling starts from random weights.*model.pretrain.task"):
        run(configure(f"model={folder}", *UNIT, *LABELS))


def test_a_weight_that_is_missing_is_an_error_and_no_new_weight(chain: Configure) -> None:
    from safetensors.torch import save_file

    run(chain())
    path = home_of(pretraining_run(chain())) / "model.safetensors"
    kept = load_file(path)
    del kept["bert.encoder.layer.1.output.dense.weight"]
    save_file(kept, path, metadata={"format": "pt"})
    task, tokenizer = prepare_task(chain(), SilentProgress())
    with pytest.raises(UserError, match=r"does not fit .*bert\.encoder\.layer\.1\.output\.dense\.weight"):
        prepared_network(chain(), task, tokenizer)


def test_the_recipe_takes_values_of_its_own(chain: Configure) -> None:
    settings = ("model.pretrain.settings.learning_rate=0.02", "model.pretrain.settings.precision=fp8")
    config = chain(*settings)
    assert config.pretraining is not None
    assert (config.pretraining.train.learning_rate, config.pretraining.train.precision) == (0.02, "fp8")
    assert config.pretraining.train.rounding == "nearest"
    assert config.train.precision == "fp32"
    assert home_of(pretraining_run(config)) != home_of(pretraining_run(chain()))
    with pytest.raises(UserError, match="model.pretrain: unknown key train.learning_rat; did you mean"):
        compose(["model=tiny_bert", "model.pretrain.task=books", "model.pretrain.settings.learning_rat=1"])
