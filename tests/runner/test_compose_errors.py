"""Whatever cannot be composed is one line that names the key, what was expected and the nearest choice."""

import pytest

from qexp.conf.errors import UserError
from qexp.runner.compose import compose


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["method=gated_atention"], ["unknown method 'gated_atention'", "did you mean gated_attention?", "vanilla"]),
        (["method=[vanilla,gated_atention]"], ["unknown method 'gated_atention'"]),
        (["method=[vanilla,vanilla]"], ["named twice"]),
        (["method=3"], ["method takes a name"]),
        (["model=tiny_brt"], ["unknown model 'tiny_brt'", "did you mean tiny_bert?", "local folder"]),
        (["task=sst3"], ["unknown task 'sst3'", "did you mean sst2?"]),
        (["quant=w8a9"], ["unknown quant 'w8a9'", "w8a8"]),
        (["scale=huge"], ["unknown scale 'huge'", "smoke, small, medium, paper"]),
        (["train=pretrain"], ["unknown train 'pretrain'", "pretrain_"]),
        (["scale=[small]"], ["scale takes one name"]),
        (["~model"], ["cannot be taken away"]),
        (["train.max_step=5"], ["unknown key train.max_step", "did you mean train.max_steps?"]),
        (["+train.max_step=5"], ["unknown key train.max_step", "did you mean train.max_steps?"]),
        (["++typo=1"], ["unknown key typo"]),
        (["~train.nothing"], ["unknown key train.nothing"]),
        (["max_steps=5"], ["unknown key max_steps", "or train.max_steps?"]),
        (["quant.weight.symmetric=true"], ["unknown key quant.weight.symmetric", "quant.weights.symmetric"]),
        (["seed.deep=1"], ["unknown key seed.deep"]),
        (["hydra.run.dir=x"], ["unknown key hydra.run.dir"]),
        (["method.gamma=-1"], ["unknown key method.gamma"]),
        (["method=clipped_softmax", "method.gama=-1"], ["unknown key method.gama", "did you mean method.gamma?"]),
        (["method=clipped_softmax", "method.gamma=0.5"], ["method.gamma=0.5", "less than or equal to 0"]),
        (["method=clipped_softmax", "method.gamma=-0.1", "method.alpha=2"], ["method", "gamma", "alpha"]),
        (["method=[vanilla,clipped_softmax]", "method.gamma=0"], ["say whose"]),
        (["method.name=x"], ["choose methods with method=NAME"]),
        (["task=digits"], ["task=digits is of images", "minilm", "model=tiny_vit"]),
        (["model=tiny_vit"], ["tiny_vit sees images", "task=digits"]),
        (["model=tiny_bert", "model.patch_layer_norm=true"], ["model.patch_layer_norm is for image models"]),
        (["task=sst2", "task.augment.flip=true"], ["task.augment is for tasks of images"]),
        (["model=tiny_vit", "task=digits", "model.dimensions.patch_size=3"], ["8 pixels", "whole patches of 3"]),
        (["model=tiny_vit", "task=digits", "task.max_length=9"], ["task.max_length", "17 tokens"]),
        (["model=tiny_vit", "task=digits", "task.pixels.std=[1,1]"], ["task.pixels", "one (grey) or three (RGB)"]),
        (["model=tiny_vit", "task=digits", "task.objective=classification"], ["task=digits classifies images"]),
        (["model=vit", "task=digits", "model.patch_layer_norm=true"], ["patch_layer_norm is for models from scratch"]),
        (["model=tiny_vit", "task=digits", "eval.ood=true"], ["is of images"]),
        (["seed=abc"], ["seed=abc", "integer"]),
        (["seed=-1"], ["seed=-1", "greater than or equal to 0"]),
        (["seed=1.5"], ["seed=1.5", "integer"]),
        (["seed=true"], ["seed=true", "integer"]),
        (["seed="], ["seed=", "integer"]),
        (["train.learning_rate=nan"], ["train.learning_rate=nan", "finite"]),
        (["train.betas=[0.9,inf]"], ["train.betas=inf", "finite"]),
        (["train.betas=[0.9]"], ["train.betas", "expected 2"]),
        (["task.max_length=2"], ["task.max_length=2", "greater than or equal to 4"]),
        (["tracking.mode=offlin"], ["tracking.mode=offlin", "did you mean offline?"]),
        (["quant.calibration=3"], ["quant.calibration=3", "settings"]),
        (["tracking.group=2024"], ["tracking.group=2024", "\"tracking.group='2024'\""]),
        (["results_dir=null"], ["results_dir=null", "string"]),
        (["train=5"], ["train takes one name"]),
        (["quant.bits=[w1a8]"], ["quant.bits: w1a8 is out of range: bits are 2 to 16, or 32 for float"]),
        (["quant.bits=w17a8"], ["w17a8 is out of range"]),
        (["quant.bits=int8"], ["'int8'", "w8a6"]),
        (["quant.bits=8"], ["'8'", "w8a6"]),
        (["quant.bits=w8a8,w6a6"], ["quant.bits=[...]"]),
        (["seed=1,2"], ["seed=1,2", "qexp sweep"]),
        (["seed=range(1,4)"], ["qexp sweep"]),
        (["seed"], ["not an override", "key=value"]),
        (["seed=[1"], ["not an override"]),
        (["=3"], ["not an override"]),
        (["a@b=c"], ["not an override"]),
        (["model=hub"], ["model.path"]),
        (["results_dir=${oc.env:QEXP_NO_SUCH_VARIABLE}"], ["results_dir", "QEXP_NO_SUCH_VARIABLE"]),
        (["model=tiny_opt", "task=pydocs", "task.objective=masked_lm"], ["task.objective=masked_lm", "causal_lm"]),
        (["model=minilm", "task=pydocs", "model.train=nothing"], ["unknown train 'nothing'"]),
    ],
)
def test_one_line_that_helps(overrides, parts):
    with pytest.raises(UserError) as caught:
        compose(overrides)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
