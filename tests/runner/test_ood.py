"""Text of other distributions, evaluated beside the task's own: what may be named, and what the record then holds."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qexp.conf.errors import UserError
from qexp.conf.schema import ExperimentConfig
from qexp.results.schema import Record
from qexp.results.store import Store
from qexp.runner.compose import compose, compose_dict, to_dict
from qexp.runner.experiment import run_experiment
from qexp.runner.identity import cell_id, training_id
from qexp.runner.ood import settle_ood
from qexp.runner.progress import SilentProgress
from qexp.runner.rerun import config_of, overrides_for
from qexp.runner.tracking import NullTracker

Configure = Callable[..., ExperimentConfig]
ON = "eval.ood=true"


@pytest.fixture
def other_folder(tmp_path: Path) -> Path:
    """Text without files named after splits, of words that the task's own text does not have."""
    folder = tmp_path / "other text"
    folder.mkdir()
    pick = random.Random(1)
    lines = [" ".join(pick.choices("zebra quagga okapi gnu ibex".split(), k=12)) for _ in range(400)]
    (folder / "rows.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


def run(cfg: ExperimentConfig) -> Record:
    return run_experiment(cfg, Store(Path(cfg.results_dir)), NullTracker(), SilentProgress())


def test_a_further_set_is_another_text_read_in_the_tasks_own_way() -> None:
    changes = ["task.max_length=48", "task.eval_examples=7", "task.eval_split=test", "task.mask_probability=0.3"]
    config = compose(["task=wikitext2_raw", "model=tiny_bert", "scale=small", ON, *changes])
    assert [other.name for other in config.ood] == list(config.task.ood) == ["ptb", "books"]
    for other in config.ood:
        alone = compose([f"task={other.name}", "scale=small"]).task
        kept = {key: getattr(alone, key) for key in ("name", "kind", "path", "folder", "text_column", "joined_by")}
        assert other == replace(config.task, subset=None, train_examples=None, ood=(), **kept)


def test_without_it_nothing_is_settled_and_no_identity_changes() -> None:
    config = compose(["task=wikitext2"])
    assert (config.task.ood, config.ood, config.eval.ood) == ((), (), False)
    further = compose(["task=wikitext2", ON])
    assert cell_id(further) != cell_id(config)
    assert training_id(further) == training_id(config)
    assert cell_id(compose(["task=wikitext2", ON, "task.ood=[ptb]"])) != cell_id(further)


def test_where_it_is_only_implied_a_task_without_further_sets_stays_as_it_is() -> None:
    for task in ("sst2", "pydocs"):
        config = compose([f"task={task}"])
        implied = replace(config, eval=replace(config.eval, ood=True))
        assert settle_ood(implied, (), lambda name: compose([f"task={name}"]).task) == config


def test_wikitext_and_what_stands_in_for_wikipedia_are_no_other_distributions() -> None:
    alike = {"wikitext2", "wikitext2_raw", "encyclopedia"}
    for task in alike:
        assert not alike & set(compose([f"task={task}", ON]).task.ood)


@pytest.mark.parametrize("overrides", [(), ("task.ood=[books]",)])
def test_a_record_with_further_sets_gives_back_its_configuration_and_overrides(overrides: tuple[str, ...]) -> None:
    config = compose_dict(["task=wikitext2", "model=tiny_opt", ON, *overrides])
    assert to_dict(config_of(config)) == config
    assert compose_dict(overrides_for(config)) == config
    assert not any(word.startswith("ood=") for word in overrides_for(config))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task=wikitext2", "task.ood=[ptb]"], "only with eval.ood=true"),
        (["task=wikitext2", ON, "task.ood=[ptp]"], "task.ood: unknown task 'ptp'; did you mean ptb?"),
        (["task=wikitext2", ON, "task.ood=[sst2]"], "sst2 has labels; name running text"),
        (["task=wikitext2", ON, "task.ood=wikitext2"], "wikitext2 equals the training set"),
        (["task=wikitext2", ON, "task.ood=[wikitext2_raw]"], "wikitext2_raw equals the training set, task=wikitext2"),
        (["task=pydocs", ON, "task.ood=[pydocs]"], "equals the training set"),
        (["task=ptb", ON, "data_dir=/d", "task.ood=[/d/ptb]"], "ptb equals the training set"),
        (["task=text_folder", "task.folder=a/b", ON, "task.ood=[./a/../a/b]"], "b equals the training set"),
        (["task=wikitext2", ON, "task.ood=[ptb,ptb]"], "two sets are called ptb"),
        (["task=wikitext2", ON, "task.ood=[a/text,b/text]"], "two sets are called text"),
        (["task=pydocs", ON, "task.ood=[wikitext2,wikitext2_raw]"], "wikitext2 and wikitext2_raw are the same text"),
        (["task=wikitext2", ON, "task.ood=[text_folder]"], "task.ood=\\[path/to/folder\\]"),
        (["task=sst2", ON], "eval.ood=true: task=sst2 has labels"),
        (["task=sst2", ON, "task.ood=[ptb]"], "task.ood: task=sst2 has labels"),
        (["task=pydocs", ON], "name some: task.ood="),
        (["task=wikitext2", "ood=[ptb]"], "unknown key ood; did you mean task.ood or eval.ood?"),
    ],
)
def test_one_line_says_what_cannot_be_evaluated_beside_the_task(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        compose(overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", ["tiny_bert", "tiny_gpt2"])
def test_every_setting_is_evaluated_on_the_further_set_too(
    configure: Configure, other_folder: Path, model: str
) -> None:
    common = [f"model={model}", "eval.integer=true", "kernels.int8=reference", "eval.outliers=false"]
    plain = run(configure(*common))
    both = run(configure(*common, ON, f"task.ood=['{other_folder}']"))
    name = f"perplexity@{other_folder.name}"
    assert list(both.metrics) == ["float", "w8a8", "w8a8.integer"]
    for setting, found in both.metrics.items():
        assert list(found) == ["perplexity", name]
        assert found["perplexity"] == plain.metrics[setting]["perplexity"]
        assert found[name].value > found["perplexity"].value
        assert other_folder.name in found[name].definition
        assert found[name].definition.partition(";")[0] == found["perplexity"].definition.partition(";")[0]
    assert both.integer == plain.integer  # gap, calls and control are about the task's own set
    assert set(both.provenance["ood_fingerprints"]) == {other_folder.name}
    assert both.provenance["data_fingerprint"] == plain.provenance["data_fingerprint"]


def test_a_methods_own_arithmetic_is_evaluated_on_it_too(configure: Configure, other_folder: Path) -> None:
    common = ["method=outlier_int8", "quant.bits=[]", "kernels.int8=reference", "eval.outliers=false"]
    plain = run(configure(*common))
    both = run(configure(*common, ON, f"task.ood=['{other_folder}']"))
    assert list(both.metrics["method.integer"]) == ["perplexity", f"perplexity@{other_folder.name}"]
    assert both.integer == plain.integer


def test_a_set_without_data_ends_the_run_before_it_trains(configure: Configure, tmp_path: Path) -> None:
    started: list[str] = []

    class Phases(SilentProgress):
        def start(self, phase: str, total: int | None) -> None:
            started.append(phase)

    cfg = configure(ON, f"task.ood=['{tmp_path / 'nowhere'}']")
    with pytest.raises(UserError, match=r"OOD set nowhere: .*no such folder.*; or leave it out: .*eval\.ood=false"):
        run_experiment(cfg, Store(Path(cfg.results_dir)), NullTracker(), Phases())
    assert "training" not in started


@pytest.mark.data
def test_the_tasks_own_sets_are_there(data_dir: Path, tmp_path: Path) -> None:
    common: list[Any] = ["model=tiny_gpt2", "scale=smoke", "tracking=none", "eval.outliers=false", "train.max_steps=1"]
    places = [f"data_dir={data_dir}", f"results_dir={tmp_path}"]
    record = run(compose([*common, *places, "task=wikitext2", "train=pretrain_clm", ON]))
    for found in record.metrics.values():
        assert list(found) == ["perplexity", "perplexity@ptb", "perplexity@books"]
        assert len({metric.n for metric in found.values()}) == 1
