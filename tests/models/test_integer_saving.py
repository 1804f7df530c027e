"""An exported integer model comes back bit for bit on any back end, and a folder that is not whole is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from qexp.conf.errors import UserError
from qexp.conf.schema import ModelConfig, QuantConfig, QuantizerConfig
from qexp.kernels.attention import clipped_softmax
from qexp.kernels.gates import LinearGate
from qexp.models.adapt import adapt
from qexp.models.integer import IntegerModel, integer_model
from qexp.models.integer_saving import load_integer, save_integer
from qexp.models.loading import finish, load_model, load_tokenizer
from qexp.models.quantization import quantize_model
from qexp.models.saving import load_saved, read_settings, save_model
from qexp.models.sites import AdaptedModel
from qexp.models.surgery import set_gate, set_probability

METHODS = [{"name": "clipped", "settings": {"gamma": -0.05}}, {"name": "gated", "settings": {"pi_init": 0.3}}]
SETTINGS = {"methods": METHODS, "max_length": 16, "pretrained": False}
SPECS: dict[str, Any] = {
    "w8a8": {},
    "w4a8": {"weights": QuantizerConfig(symmetric=False, granularity="per_channel")},
    "w8a6": {"weights": QuantizerConfig(symmetric=True, granularity="per_channel")},
}


class Clipped(nn.Module):
    def __init__(self, gamma: float):
        super().__init__()
        self.gamma = gamma

    def forward(self, x: Tensor) -> Tensor:
        return clipped_softmax(x, self.gamma, 1.0)


def put_methods(adapted: AdaptedModel, methods: list[dict[str, Any]]) -> None:
    for method in methods:
        if method["name"] == "clipped":
            set_probability(adapted, lambda _, gamma=method["settings"]["gamma"]: Clipped(gamma), owner="clipped")
        else:
            pi = method["settings"]["pi_init"]
            set_gate(
                adapted, lambda info, pi=pi: LinearGate(info.heads, info.width // info.heads, pi), owner=method["name"]
            )


def convert(adapted: AdaptedModel, tokens: Any, bits: str = "w8a8", **spec: Any) -> IntegerModel:
    quantized = quantize_model(adapted, QuantConfig(name="t", **spec), bits, [tokens()])
    return integer_model(quantized, adapted, "reference")


def finished(network: Any, family: str, head: str = "language", **changes: Any) -> AdaptedModel:
    return adapt(finish(network(family, head, use_cache=False, **changes), family))


@pytest.fixture
def saved(network: Any, tokens: Any, tmp_path: Path) -> Path:
    save_integer(convert(finished(network, "bert"), tokens), tmp_path / "saved")
    return tmp_path / "saved"


def edit_json(folder: Path, **changes: Any) -> None:
    path = folder / "qexp.json"
    settings = json.loads(path.read_text())
    settings["integer"] |= changes
    path.write_text(json.dumps(settings))


def edit_tensors(folder: Path, **changes: Tensor | None) -> None:
    path = folder / "integer.safetensors"
    tensors = {**load_file(path), **changes}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)


@pytest.mark.parametrize(("head", "bits"), [("language", "w8a8"), ("base", "w4a8"), ("classifier", "w8a6")])
def test_it_comes_back_bit_for_bit_and_claims_the_same(
    family: str, head: str, bits: str, network: Any, tokens: Any, output_of: Any, tmp_path: Path
) -> None:
    integer = convert(finished(network, family, head), tokens, bits, **SPECS[bits])
    save_integer(integer, tmp_path / "m")
    loaded = load_integer(tmp_path / "m", backend="reference")
    batch = tokens(padding="left", seed=2)
    assert torch.equal(output_of(loaded.module, batch), output_of(integer.module, batch))
    assert (loaded.claimed, loaded.in_float) == (integer.claimed, integer.in_float)
    assert (loaded.memory, loaded.bits, loaded.module.training) == (integer.memory, bits, False)


@pytest.mark.parametrize("changes", [{"do_layer_norm_before": False, "word_embed_proj_dim": 8}, {}])
@pytest.mark.parametrize("spec", [{"exclude": ("embeddings.token_weight",)}, {"exclude": ("ffn_output_weight",)}])
def test_weights_that_stay_in_float_and_tied_ones_come_back_too(
    changes: dict[str, Any], spec: dict[str, Any], network: Any, tokens: Any, output_of: Any, tmp_path: Path
) -> None:
    integer = convert(finished(network, "opt", **changes), tokens, **spec)
    save_integer(integer, tmp_path / "m")
    loaded = load_integer(tmp_path / "m", backend="reference")
    assert torch.equal(output_of(loaded.module, tokens()), output_of(integer.module, tokens()))
    head, table = (loaded.module.get_output_embeddings().weight, loaded.module.get_input_embeddings().weight)
    assert (head is table) == (spec["exclude"] == ("embeddings.token_weight",))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_methods_are_put_in_place_by_whoever_knows_them(
    family: str, network: Any, tokens: Any, output_of: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    adapted = finished(network, family)
    put_methods(adapted, METHODS)
    integer = convert(adapted, tokens)
    save_integer(integer, tmp_path / "m", SETTINGS)
    loaded = load_integer(tmp_path / "m", put_methods, "reference")
    assert torch.equal(output_of(loaded.module, tokens()), output_of(integer.module, tokens()))
    with pytest.raises(UserError, match="made with clipped, gated.*load_exported"):
        load_integer(tmp_path / "m")
    with pytest.raises(ValueError, match="settings must list the methods that changed the network: clipped, gated"):
        save_integer(integer, tmp_path / "n")
    assert not (tmp_path / "n").exists()


def test_the_folder_describes_itself_and_holds_integers(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "integer.safetensors", "qexp.json"]
    settings, config = read_settings(saved), json.loads((saved / "config.json").read_text())
    facts = settings["integer"]
    assert (facts["format"], facts["bits"]) == (1, "w8a8") and "torch" in settings["versions"]
    assert facts["quantizers"]["layers.0.query"] == {"bits": 8, "symmetric": False, "granularity": "per_tensor"}
    assert config["architectures"] == ["BertForMaskedLM"] and config["qexp_methods"] == ["w8a8"]
    tensors = load_file(saved / "integer.safetensors")
    dense = "bert.encoder.layer.0.intermediate.dense"
    assert (tensors[f"{dense}.weight"].dtype, tensors[f"{dense}.weight"].shape) == (torch.int8, (24, 16))
    assert tensors["bert.embeddings.word_embeddings.weight"].dtype == torch.int8
    floats = [name for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.ndim == 2]
    assert floats == ["cls.predictions.decoder.weight", "cls.predictions.transform.dense.weight"]
    assert {f"{dense}.weight_quantizer.scale", f"{dense}.bias"} <= set(tensors)
    assert not [name for name in tensors if "borrowed" in name]


def test_saving_again_gives_the_same_bytes(network: Any, tokens: Any, saved: Path) -> None:
    before = (saved / "integer.safetensors").read_bytes()
    save_integer(load_integer(saved, backend="tiled"), saved)
    assert (saved / "integer.safetensors").read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]


def test_no_loader_of_float_models_takes_it(saved: Path, network: Any, tokens: Any, tmp_path: Path) -> None:
    texts = ["one two three four", "five six"] * 20
    scratch = ModelConfig(name="t", source="scratch", family="roberta", tokenizer="train", vocab_size=300)
    tokenizer = load_tokenizer(scratch, texts, None, tmp_path / "cache")
    cfg = ModelConfig(name="hub", source="hub", path=str(saved))
    with pytest.raises(UserError, match="exported integer model"):
        load_model(cfg, "masked_lm", None, tokenizer, 16, seed=0)
    with pytest.raises(UserError, match="model.safetensors"):
        load_saved(saved, "masked_lm", None, put_methods)
    save_integer(convert(finished(network, "bert"), tokens), tmp_path / "m", None, tokenizer)
    assert (tmp_path / "m" / "tokenizer.json").is_file()
    save_model(finished(network, "bert"), tokenizer, tmp_path / "float", {"methods": [], "max_length": 8})
    with pytest.raises(UserError, match="describes no integer model"):
        load_integer(tmp_path / "float")


@pytest.mark.parametrize("part", ["scale", "zero_point", "qmin"])
@pytest.mark.parametrize(
    ("quantizer", "site"),
    [
        ("bert.encoder.layer.1.output.dense.output_quantizer", "layers.1.ffn_output"),
        ("bert.encoder.layer.0.attention.self.key.weight_quantizer", "layers.0.key_weight"),
        ("bert.embeddings.LayerNorm.input_quantizer", "embeddings.sum"),
    ],
)
def test_a_missing_scale_names_the_site(part: str, quantizer: str, site: str, saved: Path) -> None:
    edit_tensors(saved, **{f"{quantizer}.{part}": None})
    with pytest.raises(UserError, match=rf"lacks '{quantizer}.{part}' of site {site}:"):
        load_integer(saved)


@pytest.mark.parametrize(
    ("tensor", "value", "words"),
    [
        ("bert.encoder.layer.1.output.dense.weight", None, "lacks bert.encoder.layer.1.output.dense.weight"),
        ("bert.encoder.layer.1.output.dense.bias", None, "lacks bert.encoder.layer.1.output.dense.bias"),
        ("bert.encoder.layer.7.bias", torch.ones(2), "has bert.encoder.layer.7.bias, which"),
        ("bert.encoder.layer.1.output.dense.weight", torch.ones(2, 3, dtype=torch.int8), "does not fit its network"),
        ("bert.encoder.layer.1.output.dense.bias", torch.ones(16), "is damaged: its checksum"),
    ],
)
def test_other_tensors_are_refused(tensor: str, value: Tensor | None, words: str, saved: Path) -> None:
    edit_tensors(saved, **{tensor: value})
    with pytest.raises(UserError, match=words) as caught:
        load_integer(saved)
    assert "\n" not in str(caught.value)


def test_one_flipped_bit_is_found(saved: Path) -> None:
    path = saved / "integer.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="is damaged: its checksum"):
        load_integer(saved)


def test_truncated_and_missing_weights_are_refused(saved: Path) -> None:
    path = saved / "integer.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="integer.safetensors' cannot be read") as caught:
        load_integer(saved)
    assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(UserError, match="integer.safetensors' cannot be read"):
        load_integer(saved)


def test_a_folder_of_another_format_is_refused(saved: Path) -> None:
    edit_json(saved, format=2)
    with pytest.raises(UserError, match="has format 2, and this qexp reads 1"):
        load_integer(saved)


def test_grids_of_other_sites_are_refused(saved: Path) -> None:
    edit_json(saved, quantizers={"layers.9.query": {"bits": 8, "symmetric": True, "granularity": "per_tensor"}})
    with pytest.raises(UserError, match="a grid for 'layers.9.query', and its network has no such site"):
        load_integer(saved)


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "Nothing", "load_tool"])
def test_another_network_is_refused(name: str, saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "architectures": [name]}))
    with pytest.raises(UserError, match=f"names '{name}', which is no network of bert"):
        load_integer(saved)


def test_without_its_settings_or_configuration_it_is_refused(saved: Path, tmp_path: Path) -> None:
    (saved / "config.json").unlink()
    with pytest.raises(UserError, match="config.json"):
        load_integer(saved)
    (saved / "qexp.json").unlink()
    with pytest.raises(UserError, match="has no qexp.json"):
        load_integer(saved)
