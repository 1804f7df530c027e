"""GGUF files are converted once, exactly, and never half."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qexp.conf.errors import UserError
from qexp.conf.schema import ModelConfig
from qexp.models import gguf, sources
from qexp.models.loading import load_model, load_tokenizer
from qexp.models.sources import locate

WIDTH, FFN, HEADS, KV_HEADS, HEAD_DIM = 16, 24, 2, 1, 8
WORDS = ["<|endoftext|>", "<s>", "</s>", "a", "b", "c", "Ġ", "ab", "Ġa"]
SHAPES = {
    "token_embd.weight": (len(WORDS), WIDTH),
    "output_norm.weight": (WIDTH,),
    "blk.0.attn_norm.weight": (WIDTH,),
    "blk.0.attn_q.weight": (WIDTH, WIDTH),
    "blk.0.attn_k.weight": (KV_HEADS * HEAD_DIM, WIDTH),
    "blk.0.attn_v.weight": (KV_HEADS * HEAD_DIM, WIDTH),
    "blk.0.attn_output.weight": (WIDTH, WIDTH),
    "blk.0.ffn_norm.weight": (WIDTH,),
    "blk.0.ffn_gate.weight": (FFN, WIDTH),
    "blk.0.ffn_up.weight": (FFN, WIDTH),
    "blk.0.ffn_down.weight": (WIDTH, FFN),
}


def tensors() -> dict[str, np.ndarray[Any, Any]]:
    generator = np.random.default_rng(0)
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A one-layer Llama with a byte-level tokenizer of nine tokens."""
    library = pytest.importorskip("gguf", reason="needs the package gguf: pip install 'qexp[gguf]'")
    monkeypatch.setenv("QEXP_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "small.gguf"
    writer = library.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(32)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([3, 3, 3, 1, 1, 1, 1, 1, 1])
    writer.add_token_merges(["a b", "Ġ a"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    for name, values in tensors().items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_weights_and_tokenizer_survive_exactly(file: Path) -> None:
    folder = gguf.converted(file)
    cfg = ModelConfig(name="g", source="hub", path=str(folder))
    words = load_tokenizer(cfg, None, None, folder)
    model = load_model(cfg, "causal_lm", None, words, 32, seed=0)
    state = model.state_dict()
    written = tensors()
    for ours, theirs in {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.layers.0.mlp.down_proj.weight": "blk.0.ffn_down.weight",
        "model.layers.0.self_attn.v_proj.weight": "blk.0.attn_v.weight",
        "model.norm.weight": "output_norm.weight",
    }.items():
        assert torch.equal(state[ours], torch.from_numpy(written[theirs]))
    # GGUF stores q and k with the two halves of a head interleaved, for its own form of rotary positions.
    key = written["blk.0.attn_k.weight"].reshape(KV_HEADS, HEAD_DIM // 2, 2, WIDTH).swapaxes(1, 2)
    assert torch.equal(state["model.layers.0.self_attn.k_proj.weight"], torch.from_numpy(key.reshape(-1, WIDTH).copy()))
    assert words("ab a")["input_ids"][-2:] == [7, 8]
    assert not hasattr(model.config, "quantization_config")


def test_a_file_is_converted_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = gguf.converted(file)
    monkeypatch.setattr(gguf, "_convert", None)  # a second conversion would fail
    assert gguf.converted(file) == folder
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_an_interrupted_conversion_leaves_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(source: Path, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(gguf, "_convert", interrupted)
        gguf.converted(file)
    assert list((file.parent / "cache" / "gguf").iterdir()) == []
    assert (gguf.converted(file) / "config.json").is_file()


def test_another_file_of_the_same_name_is_converted_anew(file: Path) -> None:
    first = gguf.converted(file)
    file.write_bytes(file.read_bytes() + b"\0")
    assert gguf.converted(file) != first


def test_conversion_is_silent(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    gguf.converted(file)
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""


@pytest.mark.parametrize("kept", [0, 3, 200, -200])
def test_a_damaged_file_is_one_line(kept: int, file: Path) -> None:
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(UserError, match="cannot be read") as caught:
        gguf.converted(file)
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_named(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="does not exist"):
        gguf.converted(tmp_path / "none.gguf")
    monkeypatch.setattr(gguf, "REQUIRED", ("gguf", "no_such_reader"))
    with pytest.raises(UserError, match=r"needs no_such_reader: pip install 'qexp\[gguf\]'"):
        gguf.converted(file)


def test_a_gguf_package_is_located_as_its_converted_folder(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "find_in_package", lambda path: file)
    cfg = ModelConfig(name="smollm2", source="gguf_package", path="package/small.gguf")
    assert locate(cfg).location == str(gguf.converted(file))
    assert sources.family_of(cfg) == "llama"
