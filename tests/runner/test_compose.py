"""Composition: every choice at every scale, what wins over what, and what is settled automatically."""

import copy
import subprocess
import sys

import pytest

from qexp.conf.catalog import GROUPS, SCALES, choices, entry
from qexp.conf.schema import ExperimentConfig
from qexp.runner.compose import compose, compose_dict, compose_difference, resolve_objective
from qexp.runner.identity import cell_id
from qexp.runner.overrides import replace
from qexp.runner.rerun import config_of, overrides_for, quoted

TEXT = "task=pydocs"


def needs(group, name):
    """What a choice needs beside itself to compose."""
    return {
        ("model", "hub"): ["model.path=some/model", "model.family=bert"],
        ("task", "text_folder"): ["task.folder=/some/folder"],
        # With quant=none in its turn: there is nothing to take the bits of training from, and nothing to execute.
        **{("method", name): ["method.bits=w8a8"] for name in ("qat", "lsq", "kurtosis_qat")},
        ("method", "quadapter"): ["method.bits=w8a8", "eval.integer=false"],
    }.get((group, name), [])


IMAGES = {
    "model": ("small_vit", "tiny_vit", "vit", "vit_s16"),
    "task": ("cifar10", "digits", "image_folder", "imagenet"),
}
CHARACTERS = ("wikitext2_chars", "wikitext103_chars")
PAIRED = {"model": IMAGES["model"], "task": (*IMAGES["task"], *CHARACTERS)}
"""Choices that do not go with every other one: they have tests of their own."""
FREE = [group for group in GROUPS if group != "scale"]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("turn", range(max(len(choices(group)) for group in FREE)))
def test_every_choice_composes_at_every_scale(turn, scale):
    """Each turn takes the next choice of every group, so that all of them have had theirs at the end."""
    text = {group: [name for name in choices(group) if name not in PAIRED.get(group, ())] for group in FREE}
    chosen = {group: names[turn % len(names)] for group, names in text.items()}
    overrides = [text for group, name in chosen.items() for text in (f"{group}={name}", *needs(group, name))]
    config = compose([*overrides, f"scale={scale}"])
    assert isinstance(config, ExperimentConfig)
    assert config.scale == scale
    assert chosen.pop("method") == config.method[0].name
    assert chosen == {group: getattr(config, group).name for group in chosen}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("task", CHARACTERS)
def test_every_task_of_characters_composes(task, scale):
    assert compose([f"task={task}", "model=charlm_conv", f"scale={scale}"]).train.name == "pretrain_chars"


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("model", IMAGES["model"])
def test_every_task_of_images_composes_with_every_model_that_sees(model, scale):
    for task in IMAGES["task"]:
        config = compose([f"model={model}", f"task={task}", f"scale={scale}"])
        assert config.task.objective == "image_classification"
        patches = config.model.dimensions["image_size"] // config.model.dimensions["patch_size"]
        assert config.task.max_length == patches**2 + 1
        assert config.train.name == ("finetune" if model == "vit" else "train_images")


@pytest.mark.parametrize(("group", "name"), [(g, n) for g in GROUPS for n in choices(g)])
def test_the_command_in_every_header_composes(group, name):
    command = entry(group, name).command.split()
    assert command[:2] == ["qexp", "run"]
    assert compose(command[2:])


def test_the_default_is_the_embedded_one():
    config = compose()
    assert [method.name for method in config.method] == ["vanilla"]
    assert (config.model.name, config.task.name, config.scale) == ("minilm", "pydocs_labels", "small")
    assert config.quant.bits == ("w8a8",)


@pytest.mark.parametrize("overrides", [[], ["method=[clipped_softmax,gated_attention]", "quant=low_bits", "seed=3"]])
def test_a_kept_configuration_is_read_back(overrides):
    assert config_of(compose_dict(overrides)) == compose(overrides)


def test_scales_lie_under_the_users_values_and_over_the_papers():
    assert compose(["train=finetune", "scale=paper"]).train.batch_size == 16
    assert compose(["train=finetune", "scale=small"]).train.max_steps == 400
    assert compose(["train=finetune", "scale=small", "train.max_steps=7"]).train.max_steps == 7
    assert compose(["train.max_steps=7", "train=finetune", "scale=paper"]).train.max_steps == 7


def test_scale_sets_evaluation_limits_and_the_user_wins():
    assert compose(["scale=smoke"]).eval.outlier_batches == 2
    assert compose(["scale=smoke", "eval.outlier_batches=3"]).eval.outlier_batches == 3


def test_a_scale_changes_only_what_it_names_inside_a_group():
    small, paper = (compose(["quant=w8a8", f"scale={scale}"]).quant for scale in ("small", "paper"))
    assert small.calibration.batch_size != paper.calibration.batch_size
    assert small.calibration.seed == paper.calibration.seed == 2000


@pytest.mark.parametrize("form", ["seed=7", "+seed=7", "++seed=7"])
def test_every_form_of_a_value_means_the_same(form):
    assert compose([form]).seed == 7


def test_later_overrides_win():
    assert compose(["seed=1", "seed=2", "scale=smoke", "scale=small"]).seed == 2
    assert compose(["scale=smoke", "scale=small"]).scale == "small"


def test_taking_a_key_away_gives_the_schemas_default():
    assert compose(["train=pretrain_clm", "~train.betas"]).train.betas == (0.9, 0.999)
    assert compose(["~threads"]).threads is None


def test_one_value_serves_as_a_list():
    assert compose(["quant.bits=w4a8", "train.freeze=embeddings"]).quant.bits == ("w4a8",)


def test_method_settings_are_complete_and_have_a_short_form():
    short = compose(["method=clipped_softmax", "method.gamma=-0.03"])
    long = compose(["method=clipped_softmax", "method.clipped_softmax.gamma=-0.03"])
    assert short == long
    assert short.method[0].settings == {"gamma": -0.03, "alpha": None, "zeta": 1.0}


def test_methods_combine_in_the_given_order():
    config = compose(["method=[gated_attention,clipped_softmax]", "method.clipped_softmax.gamma=-0.03"])
    assert [method.name for method in config.method] == ["gated_attention", "clipped_softmax"]
    assert config.method[1].settings["gamma"] == -0.03


def test_any_model_by_id_or_folder(tmp_path):
    by_id = compose(["model=some-org/bert-thing", "model.family=bert"])
    assert (by_id.model.source, by_id.model.path) == ("hub", "some-org/bert-thing")
    (tmp_path / "config.json").write_text('{"model_type": "opt"}')
    by_folder = compose([f"model={tmp_path}", TEXT])
    assert by_folder.model.path == str(tmp_path)
    assert by_folder.task.objective == "causal_lm"


@pytest.mark.parametrize(
    ("overrides", "objective", "recipe"),
    [
        (["model=minilm", "task=sst2"], "classification", "finetune"),
        (["model=minilm", "task=stsb"], "regression", "finetune"),
        (["model=tiny_opt", "task=sst2"], "classification", "finetune"),
        (["model=minilm", TEXT], "masked_lm", "continue_mlm"),
        (["model=distilgpt2", TEXT], "causal_lm", "continue_clm"),
        (["model=tiny_bert", TEXT], "masked_lm", "pretrain_mlm"),
        (["model=tiny_opt", TEXT], "causal_lm", "pretrain_clm"),
        (["model=smollm2", TEXT], "causal_lm", "none"),
        (["model=minilm", TEXT, "train=none"], "masked_lm", "none"),
        (["model=minilm", TEXT, "model.train=finetune"], "masked_lm", "finetune"),
    ],
)
def test_objective_and_recipe_follow_from_model_and_task(overrides, objective, recipe):
    config = compose(overrides)
    assert (config.task.objective, config.train.name) == (objective, recipe)
    assert resolve_objective(config) == objective


def test_data_dir_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("QEXP_DATA_DIR", "/some/data")
    assert compose().data_dir == "/some/data"
    assert compose(["data_dir=/other"]).data_dir == "/other"
    monkeypatch.setenv("QEXP_DATA_DIR", "")
    assert compose().data_dir is None
    monkeypatch.delenv("QEXP_DATA_DIR")
    assert compose().data_dir is None


def test_the_plain_form_is_jsonable_and_says_everything():
    import json

    plain = compose_dict(["method=clipped_softmax"])
    assert json.loads(json.dumps(plain)) == plain
    assert plain["method"] == [{"name": "clipped_softmax", "settings": {"gamma": None, "alpha": None, "zeta": 1.0}}]
    assert '"scales"' not in json.dumps(plain)


def test_difference_of_two_configurations():
    a, b = compose_dict(["seed=1"]), compose_dict(["seed=2", "method=clipped_softmax"])
    found = {key: (left, right) for key, left, right in compose_difference(a, b)}
    assert found.pop("seed") == (1, 2)
    assert found.pop("method.clipped_softmax.zeta") == (None, 1.0)
    assert set(found) == {"method"}
    assert compose_difference(a, a) == []


def test_replace_drops_the_values_of_a_choice_that_goes():
    before = ["method=clipped_softmax", "method.gamma=-0.03", "seed=3"]
    assert replace(before, ["method=vanilla"]) == ["seed=3", "method=vanilla"]
    assert replace(before, ["seed=4"]) == [*before, "seed=4"]


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["method=clipped_softmax", "method.gamma=-0.03", "seed=5"],
        ["method=[clipped_softmax,gated_attention]", "method.gated_attention.pi_init=0.25"],
        ["model=org/some-model", "model.family=opt", TEXT, "scale=smoke"],
        ["quant=low_bits", "quant.bits=[w8a8,w2a2]", "train.freeze=[embeddings,bias]", "table=a/b"],
        ["quant=none", "tracking.group='a group, with a comma'", "results_dir='odd (place)'", "train.dropout=0.0"],
        ["model=tiny_opt", TEXT, "scale=paper", "model.revision='123'", "task.train_examples=null"],
    ],
)
def test_a_configuration_says_how_it_is_made_again(overrides):
    config = compose_dict(overrides)
    assert compose_dict(overrides_for(config)) == config


def test_a_record_from_before_a_setting_is_made_again_as_it_was():
    overrides = ["method=unit_scaling", "method.attention=scaled", "model=charlm_attention", "task=wikitext2_chars"]
    config = compose_dict(overrides)
    earlier = copy.deepcopy(config)
    del earlier["method"][0]["settings"]["attention"]
    assert compose_dict(overrides_for(earlier)) == config and cell_id(config_of(earlier)) == cell_id(config_of(config))


def test_quoting():
    assert quoted(["a", 1, None, True]) == "[a,1,null,true]"
    assert quoted("it's") == "'it\\'s'"
    assert quoted("true") == "'true'"


def test_composing_does_not_import_torch():
    code = "import sys; from qexp.runner.compose import compose; compose(); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "False", result.stderr


def test_an_application_that_uses_hydra_itself_keeps_its_state():
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    compose(["seed=77"])
    assert not GlobalHydra.instance().is_initialized()
    with initialize_config_module("qexp.conf", version_base="1.3"):
        mine = GlobalHydra.instance().hydra
        compose(["model=tiny_gpt2", "task=ptb", "quant=mse"])
        assert GlobalHydra.instance().hydra is mine
