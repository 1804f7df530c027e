"""Integer fine-tuning: its modes, what they share, what they refuse, and what is measured of them."""

from __future__ import annotations

import copy

import pytest
import torch

from qexp.conf.errors import UserError
from qexp.kernels.int8 import select
from qexp.methods.base import Context
from qexp.methods.registry import acts_in_training, create, in_integers, trained_with, validate
from qexp.models import fixed_point
from qexp.models.adapt import adapt
from qexp.models.certificate import Recorder
from qexp.models.fixed_point import fixed_point_layers
from qexp.models.fixed_point_norms import remove_norms
from qexp.models.saving import BASELINE

SPLITTING = ("tiled_int12", "int12_outliers", "int8_outliers")
INTEGER = ("int8", *SPLITTING)


@pytest.fixture(autouse=True)
def settled():
    select("auto")


def executed(network, tokens, output_of, **settings):
    """Outputs of the network in the method's arithmetic, and the certificate."""
    execution = create("outlier_int8", settings).execute(adapt(network), "auto")
    recorder = Recorder()
    with recorder:
        output = output_of(execution.module, tokens())
    return output, execution.certify(recorder)


def test_float_mode_is_the_network_as_it_is(network):
    method = create("outlier_int8", {"mode": "float"})
    assert not method.acts_in_training
    assert method.execute(adapt(network("bert")), "auto") is None


@pytest.mark.parametrize("mode", INTEGER)
def test_prepare_changes_every_linear_layer_and_finish_restores_them(family, head, mode, network, tokens, output_of):
    model = adapt(network(family, head))
    expected, method = output_of(model.module, tokens()), create("outlier_int8", {"mode": mode, "gamma": 1.0})
    surgery = method.prepare(model, Context(8, pretrained=True))
    assert [change.site for change in surgery.replaced] == [name for name, _ in fixed_point_layers(model.module)]
    assert mode in surgery.replaced[0].change and not torch.equal(output_of(model.module, tokens()), expected)
    method.finish(model)
    assert torch.equal(output_of(model.module, tokens()), expected)


def test_tiled_is_wide_bit_for_bit(family, network, tokens, output_of):
    tiled, _ = executed(network(family), tokens, output_of, mode="tiled_int12", gamma=0.7)
    wide, proof = executed(network(family), tokens, output_of, mode="int12_outliers", gamma=0.7)
    assert torch.equal(tiled, wide)
    assert any("emulated" in product["why"] for product in proof["in_float"])


@pytest.mark.parametrize("shift", [7, 8])
def test_both_safe_splits_give_the_same_bits(shift, network, tokens, output_of):
    split, _ = executed(network("bert"), tokens, output_of, gamma=0.7, tile_shift=shift)
    other, _ = executed(network("bert"), tokens, output_of, gamma=0.7)
    assert torch.equal(split, other)


@pytest.mark.parametrize("mode", SPLITTING)
@pytest.mark.parametrize("granularity", ["element", "column"])
def test_without_outliers_it_is_int8_bit_for_bit(mode, granularity, network, tokens, output_of):
    plain, _ = executed(network("bert"), tokens, output_of, mode="int8")
    split, _ = executed(network("bert"), tokens, output_of, mode=mode, gamma=1e6, granularity=granularity)
    assert torch.equal(split, plain)


def plant_outliers(network):
    """Two channels of a LayerNorm's output a hundred times as large, which the layers behind it take back."""
    layer = network.bert.encoder.layer[0]
    with torch.no_grad():
        norm, dense = layer.attention.output.LayerNorm, layer.intermediate.dense
        norm.weight[:2] *= 100
        norm.bias[:2] *= 100
        dense.weight[:, :2] /= 100
    return network


@pytest.mark.parametrize("mode", SPLITTING)
@pytest.mark.parametrize("granularity", ["element", "column"])
def test_taking_outliers_apart_takes_noise_away(mode, granularity, network, tokens):
    settings = {"mode": mode, "granularity": granularity, "gamma": 20.0}
    found = create("outlier_int8", settings).analyse(adapt(plant_outliers(network("bert"))), [tokens()], {})
    (layer,) = (one for one in found["layers"] if one["name"].endswith("layer.0.intermediate.dense"))
    assert layer["sqnr_db"]["split"] > layer["sqnr_db"]["whole"] + 3


def test_every_bit_counts(network, tokens, output_of):
    expected = output_of(adapt(network("bert")).module, tokens())
    errors = []
    for bits in (4, 6, 8, 10, 16):
        found, _ = executed(network("bert"), tokens, output_of, mode="int8", activation_bits=bits, weight_bits=16)
        errors.append(float((found - expected).abs().mean()))
    assert errors == sorted(errors, reverse=True)


def test_certificate_has_only_int8_in_the_layers(family, network, tokens, output_of):
    _, proof = executed(network(family), tokens, output_of, gamma=0.7)
    assert all(set(product["input"].split("/")) <= {"int8", "uint8", "float32"} for product in proof["products"])
    assert {product["kind"] for product in proof["products"]} == {"forward"}
    names = {product["name"] for product in proof["products"]}
    assert not names & {product["name"] for product in proof["in_float"]}


def test_excluded_layers_stay_in_floating_point(network):
    model = adapt(network("bert", "classifier"))
    surgery = create("outlier_int8", {"exclude": ("classifier", "pooler")}).prepare(model, Context(8, pretrained=True))
    assert not [change for change in surgery.replaced if "classifier" in change.site or "pooler" in change.site]
    with pytest.raises(UserError, match="no layer's name contains 'pooller'"):
        create("outlier_int8", {"exclude": ("pooller",)}).prepare(model, Context(8, pretrained=True))


@pytest.mark.parametrize("part", ["layernorm", "embedding"])
def test_norms_and_tables_in_sixteen_bits_are_nearly_the_floats_and_go_away_again(part, network, tokens, output_of):
    expected = output_of(adapt(network("bert")).module, tokens())
    wide = {"mode": "int8", "activation_bits": 16, "weight_bits": 16, "gradient_bits": 16, part: True}
    found, _ = executed(network("bert"), tokens, output_of, **wide)
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=5e-3)
    model, method = adapt(network("bert")), create("outlier_int8", wide)
    surgery = method.prepare(model, Context(8, pretrained=True))
    assert any(part in change.site.lower() for change in surgery.replaced)
    gradients(model.module, tokens())
    method.finish(model)
    assert torch.equal(output_of(model.module, tokens()), expected)


def gradients(module, inputs):
    """The gradients of a step, all of them nearly those of the same network in floating point."""
    module(**inputs, labels=inputs["input_ids"]).loss.backward()
    found = {name: parameter.grad.clone() for name, parameter in module.named_parameters()}
    plain = copy.deepcopy(module)
    for remove in (fixed_point.remove, remove_norms):
        remove(plain)
    plain.zero_grad()
    plain(**inputs, labels=inputs["input_ids"]).loss.backward()
    for name, parameter in plain.named_parameters():
        assert (found[name] - parameter.grad).norm() <= 1e-2 * parameter.grad.norm() + 1e-5, name


def test_coarse_norms_and_tables_change_the_outcome(network, tokens, output_of):
    plain, _ = executed(network("bert"), tokens, output_of)
    for part in ("layernorm", "embedding"):
        other, _ = executed(network("bert"), tokens, output_of, **{part: True})
        assert not torch.equal(plain, other)


def test_a_network_without_layernorm_is_told(network):
    with pytest.raises(UserError, match="method.layernorm=true: this network has no LayerNorm"):
        create("outlier_int8", {"layernorm": True}).prepare(adapt(network("llama")), Context(8, pretrained=True))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"gamma": 0.0}, "method.gamma.*greater than 0"),
        ({"gamma": -1.0}, "method.gamma.*greater than 0"),
        ({"activation_bits": 3}, "activation_bits.*greater than or equal to 4"),
        ({"weight_bits": 17}, "weight_bits.*less than or equal to 16"),
        ({"gradient_bits": 2}, "gradient_bits.*greater than or equal to 4"),
        ({"tile_shift": 4}, "tile_shift=4: 12-bit codes split there do not fit two int8 tiles; use 7 or 8"),
        ({"activation_bits": 10}, "inliers have 8 bits at most"),
        ({"mode": "int16"}, "mode"),
    ],
)
def test_what_is_refused_says_what_would_be_right(settings, words):
    with pytest.raises(UserError, match=words):
        validate("outlier_int8", settings)


def test_wide_tensors_are_for_the_mode_with_one():
    assert validate("outlier_int8", {"mode": "int8", "activation_bits": 12}).activation_bits == 12


def test_without_training_it_shares_the_baselines_network():
    from qexp.conf.schema import MethodChoice

    later, trained = MethodChoice("outlier_int8", {"train": False}), MethodChoice("outlier_int8", {})
    assert trained_with([later]) == (MethodChoice(BASELINE),)
    assert trained_with([later, MethodChoice("gated_attention")]) == (MethodChoice("gated_attention"),)
    assert trained_with([trained]) == (trained,)
    assert not acts_in_training(validate("llm_int8", {}))
    assert in_integers([later]) and not in_integers([MethodChoice("outlier_int8", {"mode": "float"})])


def test_analysis_finds_the_planted_columns_and_what_the_split_gains(network, tokens):
    model = adapt(plant_outliers(network("bert")))
    found = create("outlier_int8", {"gamma": 20.0}).analyse(model, [tokens(), tokens(seed=1)], {})
    layer = next(one for one in found["layers"] if one["name"].endswith("layer.0.intermediate.dense"))
    assert {column for column, _ in layer["most"]} <= {0, 1} and layer["columns_with_outliers"] >= 1
    assert 0 < layer["outlier_fraction"] <= 2 / 16
    assert layer["step"]["split"] <= layer["step"]["whole"] / 2
    assert layer["sqnr_db"]["split"] > layer["sqnr_db"]["whole"] + 3
    plain = next(one for one in found["layers"] if one["name"].endswith("layer.0.attention.self.query"))
    assert plain["outlier_fraction"] == 0 and plain["sqnr_db"]["split"] == plain["sqnr_db"]["whole"]
    assert found["summary"]["largest_outlier_fraction"] == layer["outlier_fraction"]
