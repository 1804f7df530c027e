"""ViT: the same logits as transformers', the paper's sites, and integers in every linear layer, patches included."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import ViTConfig, ViTForImageClassification, ViTModel

from qexp.conf.schema import QuantConfig
from qexp.kernels.gates import LinearGate
from qexp.methods.clipped_softmax.functional import ClippedSoftmax
from qexp.models.adapt import adapt
from qexp.models.capture import capture
from qexp.models.certificate import Recorder
from qexp.models.folding import fold, scalings
from qexp.models.integer import integer_model
from qexp.models.integer_saving import load_integer, save_integer
from qexp.models.patches import patches
from qexp.models.quantization import quantize_model
from qexp.models.statistics import measure_outliers
from qexp.models.surgery import set_gate, set_probability

EMBEDDINGS = ["embeddings.patches", "embeddings.projection_weight", "embeddings.projection"]
NORM = ["embeddings.norm_weight", "embeddings.norm"]
LAYER = """
    attention_norm_weight attention_norm query_weight query key_weight key value_weight value
    attention_scores attention_probs context attention_output_weight attention_output attention_residual
    ffn_norm_weight ffn_norm ffn_hidden_weight ffn_hidden ffn_output_weight ffn_output ffn_residual
""".split()
END = ["final_norm_weight", "final_norm", "classifier_weight", "classifier"]


def make(seed=7, network_class=ViTForImageClassification, **changes):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    pixels = {"image_size": 8, "patch_size": 2, "num_channels": 3, "num_labels": 5}
    model = network_class(ViTConfig(**sizes, **pixels, **changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    return model


def images(rows=3, seed=0):
    return {"pixel_values": torch.randn(rows, 3, 8, 8, generator=torch.Generator().manual_seed(seed))}


@torch.no_grad()
def logits(model, inputs=None):
    return model(**(inputs or images())).logits


@pytest.fixture
def quantized():
    adapted = adapt(make())
    return adapted, quantize_model(adapted, QuantConfig("w8a8"), "w8a8", [images(seed=1)])


def test_logits_are_transformers_own():
    model = make().double()
    inputs = {"pixel_values": images()["pixel_values"].double()}
    expected = logits(model, inputs)
    adapt(model)
    torch.testing.assert_close(logits(model, inputs), expected, atol=1e-12, rtol=0)


def test_a_network_without_a_head_is_adapted_too():
    model = make(network_class=ViTModel)
    with torch.no_grad():
        expected = model(**images())
        adapted, found = adapt(model), model(**images())
    assert [site.name for site in adapted.sites][-1] == "final_norm"
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state)
    torch.testing.assert_close(found.pooler_output, expected.pooler_output)


def test_parameters_keep_their_names_and_shapes():
    model = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adapt(model)
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], value) for name, value in before.items())
    model.load_state_dict(before)
    assert {name: value.shape for name, value in before.items()} == {n: v.shape for n, v in model.state_dict().items()}


def test_adapting_again_changes_nothing():
    model = make(patch_layer_norm=True)
    first, expected = adapt(model), logits(model)
    assert tuple(adapt(model).sites) == tuple(first.sites) and torch.equal(logits(model), expected)
    assert torch.equal(logits(copy.deepcopy(model)), expected)


@pytest.mark.parametrize("has_norm", [False, True])
def test_sites_in_forward_order(has_norm):
    adapted, met = adapt(make(patch_layer_norm=has_norm)), []
    layers = [f"layers.{layer}.{role}" for layer in range(2) for role in LAYER]
    embeddings = [*EMBEDDINGS, *(NORM if has_norm else []), "embeddings.sum"]
    assert [site.name for site in adapted.sites] == [*embeddings, *layers, *END]
    for site in adapted.sites.activations():
        module = adapted.module.get_submodule(site.module)
        listen = module.register_forward_pre_hook if site.kind == "input" else module.register_forward_hook
        listen(lambda *_, name=site.name: met.append(name))
    logits(adapted.module)
    assert met == [site.name for site in adapted.sites.activations()]


def test_every_linear_layer_is_listed_and_reads_its_site():
    adapted, taken = adapt(make()), {}
    modules = {name for name, module in adapted.module.named_modules() if isinstance(module, nn.Linear)}
    assert {info.module for info in adapted.linears} == modules
    for info in adapted.linears:
        module = adapted.module.get_submodule(info.module)
        module.register_forward_pre_hook(lambda _, args, name=info.name: taken.update({name: args[0]}))
    with capture(adapted.module, adapted.sites.activations()) as at:
        found = logits(adapted.module)
    for info in adapted.linears:
        flows = at[info.input][:, 0] if info.name == "classifier" else at[info.input]
        assert torch.equal(taken[info.name], flows), info
    assert torch.equal(at["classifier"], found)


def test_patches_are_what_a_convolution_reads():
    pixels, convolution = torch.randn(2, 3, 6, 9).double(), nn.Conv2d(3, 4, (2, 3), (2, 3)).double()
    expected = convolution(pixels).flatten(2).transpose(1, 2)
    found = nn.functional.linear(patches(pixels, 2, 3), convolution.weight.flatten(1), convolution.bias)
    torch.testing.assert_close(found, expected)


def test_a_layernorm_behind_the_patches_is_one():
    plain, normed = adapt(make()), adapt(make(patch_layer_norm=True))
    with capture(normed.module, normed.sites.activations()) as at:
        assert not torch.equal(logits(normed.module), logits(plain.module))
    projected = at["embeddings.projection"]
    torch.testing.assert_close(at["embeddings.norm"], nn.functional.layer_norm(projected, (16,), eps=1e-12))


def test_clipped_softmax_and_gate():
    adapted = adapt(make())
    expected = logits(adapted.module)
    set_probability(adapted, lambda _: ClippedSoftmax(0.0, 1.0), owner="test")
    torch.testing.assert_close(logits(adapted.module), expected)
    set_gate(adapted, lambda info: LinearGate(info.heads, info.width // info.heads, 0.5), owner="test")
    assert not torch.allclose(logits(adapted.module), expected)


def test_every_product_runs_in_integers(quantized):
    adapted, simulated = quantized
    executed, recorder = integer_model(simulated, adapted, "reference"), Recorder()
    with recorder:
        found = logits(executed.module)
    assert not executed.in_float
    products = recorder.certificate(executed)["products"]
    assert len(products) == 2 * 8 + 2  # six linear layers and two products a layer, patches and classifier
    step = simulated.classifier.output_quantizer.qparams.scale
    torch.testing.assert_close(found, logits(simulated), atol=2 * float(step), rtol=0)


def test_an_integer_model_is_saved_and_loaded(quantized, tmp_path):
    adapted, simulated = quantized
    executed = integer_model(simulated, adapted, "reference")
    save_integer(executed, tmp_path / "saved")
    assert torch.equal(logits(load_integer(tmp_path / "saved", backend="reference").module), logits(executed.module))


@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
def test_the_patch_weight_lies_on_its_grid(granularity):
    adapted = adapt(make())
    spec = QuantConfig("w4", bits=("w4a32",), weights={"symmetric": True, "granularity": granularity})
    network = quantize_model(adapted, spec, "w4a32", [images()])
    weight = network.vit.embeddings.patch_embeddings.projection.weight
    rows = weight if granularity == "per_channel" else weight.flatten()[None]
    assert all(len(row.unique()) <= 16 for row in rows)


def test_norms_and_values_fold():
    adapted = adapt(make())
    expected = logits(adapted.module)
    found = scalings(adapted, ("attention_norm", "ffn_norm", "value"))
    assert len(found) == 6
    for scaling in found:
        fold(adapted.module, scaling, 2.0 ** torch.randint(-3, 4, (scaling.channels,)))
    torch.testing.assert_close(logits(adapted.module), expected)


def test_outliers_are_measured_at_every_activation_site():
    adapted = adapt(make())
    found = measure_outliers(adapted, [images(), images(seed=2)])
    assert set(found["sites"]) == {site.name for site in adapted.sites.activations()}
    stream = found["sites"]["layers.1.ffn_residual"]["inf_norm"]
    assert found["summary"]["max_inf_norm"] == max(stream, found["sites"]["layers.0.ffn_residual"]["inf_norm"])
