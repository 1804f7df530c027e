"""The certificate lists what was dispatched, and there is none where a claimed product ran in floating point."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules import module as torch_modules

from qexp.conf.errors import RunError
from qexp.conf.schema import QuantConfig
from qexp.kernels.gates import AllHeadsLinearGate
from qexp.models.adapt import adapt
from qexp.models.certificate import IntegerError, Recorder
from qexp.models.integer import integer_model
from qexp.models.quantization import quantize_model
from qexp.models.surgery import parts_of, set_gate

HEAD = "the head has no quantizer sites"
HEADS = {
    "bert": {"cls.predictions.transform.dense", "cls.predictions.decoder"},
    "ernie": {"cls.predictions.transform.dense", "cls.predictions.decoder"},
    "roberta": {"lm_head.dense", "lm_head.decoder"},
    **dict.fromkeys(("gpt2", "opt", "llama"), {"lm_head"}),
}
MODES = [torch.no_grad, torch.inference_mode, torch.enable_grad]


def convert(adapted, tokens, bits="w8a8", backend="reference", **spec):
    quantized = quantize_model(adapted, QuantConfig(name="t", **spec), bits, [tokens()])
    return integer_model(quantized, adapted, backend)


def record(integer, *batches, mode=torch.no_grad):
    recorder = Recorder()
    for batch in batches:
        with mode(), recorder:
            integer.module(**batch)
    return recorder


@pytest.fixture
def integer(network, tokens):
    return convert(adapt(network("bert")), tokens)


def names(entries):
    return [entry["name"] for entry in entries]


@pytest.mark.parametrize(("backend", "mode"), list(zip(["reference", "tiled", "auto"], MODES, strict=True)))
def test_it_lists_exactly_the_products_of_the_network(family, mode, backend, network, tokens):
    adapted = adapt(network(family))
    integer = convert(adapted, tokens, backend=backend)
    proof = record(integer, tokens(), tokens(length=5, seed=1), mode=mode).certificate(integer)
    expected = Counter([("linear", info.name) for info in adapted.linears])
    for layer in range(2):
        expected[("attention_scores", f"layers.{layer}.attention_scores")] += 1
        expected[("attention_context", f"layers.{layer}.context")] += 1
    assert Counter((entry["kind"], entry["name"]) for entry in proof["products"]) == expected
    for entry in proof["products"]:
        assert entry["accumulator"] == "int32" and entry["input"] in ("uint8", "int8")
        assert entry["weight"] in ("uint8", "int8") and entry["calls"] >= 2 and entry["calls"] % 2 == 0
    assert set(names(proof["in_float"])) == HEADS[family]
    assert {(entry["why"], entry["calls"]) for entry in proof["in_float"]} == {(HEAD, 2)}
    assert proof["embeddings"] and all(table["stored"] == "int8" for table in proof["embeddings"])


def test_it_is_plain_data_with_the_keys_of_the_record(integer, tokens):
    proof = record(integer, tokens()).certificate(integer)
    assert json.loads(json.dumps(proof)) == proof
    keys = ["backend", "isa", "threads", "bits", "products", "in_float", "float_operations", "embeddings", "weights"]
    assert list(proof) == keys
    assert (proof["backend"], proof["isa"], proof["bits"]) == ("reference", "int64", "w8a8")
    assert proof["threads"] == torch.get_num_threads()
    assert proof["products"][0] == {
        **{"name": "layers.0.attention_scores", "kind": "attention_scores", "op": "qexp::int8_reference"},
        **{"input": "uint8", "weight": "int8", "accumulator": "int32", "backend": "reference", "calls": 1},
    }
    assert proof["in_float"][0]["op"] == "aten::addmm"
    assert proof["embeddings"][0] == {"name": "embeddings.token", "stored": "int8"}
    memory = integer.memory
    assert proof["weights"]["integer_bytes"] == memory.integer_bytes
    assert list(proof["weights"]) == ["converted_float32_bytes", "integer_bytes", "still_float_bytes", "ratio"]


def test_everything_else_in_float_is_counted(integer, tokens):
    found = record(integer, tokens()).certificate(integer)["float_operations"]
    # one norm behind the embeddings, two a layer, one in the head; two softmaxes; two GELUs and that of the head
    assert (found["aten::native_layer_norm"], found["aten::_softmax"], found["aten::gelu"]) == (6, 2, 3)
    assert not [name for name in found if "mm" in name or "view" in name or "copy" in name]
    assert list(found.values()) == sorted(found.values(), reverse=True)


@pytest.mark.parametrize("module", ["bert.encoder.layer.1.output.dense", "bert.encoder.layer.0.attention.self.key"])
def test_a_layer_secretly_swapped_for_floats_is_an_error(module, integer, tokens):
    layer = integer.module.get_submodule(module)
    integer.module.set_submodule(module, nn.Linear(layer.in_features, layer.out_features))
    claim = next(claim for claim in integer.claimed if claim.module == module)
    for mode in MODES:
        with pytest.raises(IntegerError, match=f"{claim.name} is claimed in integers, but aten::.* multiplied floats"):
            record(integer, tokens(), mode=mode).certificate(integer)
    assert issubclass(IntegerError, RunError)


def test_a_layer_swapped_between_two_batches_is_an_error(integer, tokens):
    recorder = record(integer, tokens())
    integer.module.set_submodule("bert.encoder.layer.1.output.dense", nn.Linear(24, 16))
    with pytest.raises(IntegerError, match="layers.1.ffn_output is claimed in integers, but no integer product"):
        recorder.certificate(integer)


def test_floats_beside_the_integers_are_an_error(integer, tokens):
    layer = integer.module.bert.encoder.layer[0].output.dense

    class Both(type(layer)):
        def forward(self, x):
            return super().forward(x) + 0.0 * F.linear(x, torch.ones(self.out_features, self.in_features))

    layer.__class__ = Both
    with pytest.raises(IntegerError, match="layers.0.ffn_output .* multiplied floats"):
        record(integer, tokens()).certificate(integer)


def test_a_part_of_a_layer_that_multiplies_floats_is_an_error(integer, tokens):
    layer = integer.module.bert.encoder.layer[0].output.dense
    layer.part = nn.Linear(layer.in_features, layer.out_features)
    layer.register_forward_hook(lambda module, args, out: module.part(args[0]))
    with pytest.raises(IntegerError, match="layers.0.ffn_output .* multiplied floats"):
        record(integer, tokens()).certificate(integer)


@pytest.mark.parametrize("fused", [False, True])
def test_attention_taken_back_to_floats_is_an_error(fused, integer, tokens):
    parts = parts_of(integer.adapted, integer.adapted.attention[1])
    if fused:
        parts.integer = None
    else:
        parts.integer.forward = lambda q, k, v, mask, scale, probability: probability(q @ k.mT * scale + mask) @ v
    with pytest.raises(IntegerError, match="layers.1.attention_scores"):
        record(integer, tokens(padding="left")).certificate(integer)


def test_a_table_taken_back_to_floats_is_an_error(integer, tokens):
    integer.module.bert.embeddings.word_embeddings = nn.Embedding(61, 16)
    with pytest.raises(IntegerError, match="embeddings.token is claimed to be stored in int8, but is torch.float32"):
        record(integer, tokens()).certificate(integer)


def test_what_never_ran_is_no_proof(integer):
    with pytest.raises(IntegerError, match="no integer product was seen"):
        Recorder().certificate(integer)


def test_what_is_not_claimed_is_listed_with_the_reason(network, tokens):
    integer = convert(adapt(network("bert")), tokens, exclude=("ffn_hidden", "attention_probs"))
    proof = record(integer, tokens()).certificate(integer)
    found = {entry["name"]: entry for entry in proof["in_float"]}
    for layer in range(2):
        output, attention = found[f"layers.{layer}.ffn_output"], found[f"layers.{layer}.attention"]
        assert output["why"] == f"its input layers.{layer}.ffn_hidden is not quantized"
        assert attention["why"] == f"its operand layers.{layer}.attention_probs is not quantized"
        assert (attention["op"], attention["calls"]) == ("aten::bmm", 2)
    assert not set(found) & set(names(proof["products"]))


def test_a_gates_own_products_are_listed(network, tokens):
    adapted = adapt(network("llama"))
    set_gate(adapted, lambda info: AllHeadsLinearGate(info.heads, info.width), owner="gated")
    integer = convert(adapted, tokens)
    found = {entry["name"]: entry["why"] for entry in record(integer, tokens()).certificate(integer)["in_float"]}
    assert found.pop("lm_head") == HEAD
    assert found == {f"model.layers.{i}.self_attn.qexp.gate": "a gate has no quantizer sites" for i in range(2)}


def test_recording_changes_nothing_and_ends_with_the_block(integer, tokens, output_of):
    expected, recorder = output_of(integer.module, tokens()), Recorder()
    with recorder:
        assert torch.equal(output_of(integer.module, tokens()), expected)
    counted = sum(sum(ran.values()) for ran in recorder.seen.values())
    output_of(integer.module, tokens())
    assert sum(sum(ran.values()) for ran in recorder.seen.values()) == counted
    assert not torch_modules._global_forward_hooks and not torch_modules._global_forward_pre_hooks


def test_an_error_in_the_network_leaves_the_recorder_whole(integer, tokens):
    recorder, gelu = Recorder(), integer.module.bert.encoder.layer[1].intermediate.intermediate_act_fn
    gelu.forward = lambda x: 1 / 0
    with torch.no_grad(), pytest.raises(ZeroDivisionError), recorder:
        integer.module(**tokens())
    del gelu.forward
    with torch.no_grad(), recorder:
        integer.module(**tokens())
    calls = {entry["name"]: entry["calls"] for entry in recorder.certificate(integer)["products"]}
    assert (calls["layers.0.query"], calls["layers.1.ffn_output"]) == (2, 1)


A, B, V = torch.ones(3, 4), torch.ones(4, 3), torch.ones(4)
PRODUCTS = {
    "mm": lambda: A @ B,
    "half mm": lambda: A.half() @ B.half(),
    "double mm": lambda: A.double() @ B.double(),
    "mv": lambda: A @ V,
    "dot": lambda: torch.dot(V, V),
    "vecdot": lambda: torch.linalg.vecdot(V, V),
    "addmm": lambda: torch.addmm(torch.ones(3), A, B),
    "addmv": lambda: torch.addmv(torch.ones(3), A, V),
    "bmm": lambda: A.expand(2, 3, 4) @ B.expand(2, 4, 3),
    "baddbmm": lambda: torch.baddbmm(torch.ones(3), A.expand(2, 3, 4), B.expand(2, 4, 3)),
    "linear": lambda: F.linear(A, A, torch.ones(3)),
    "bilinear": lambda: F.bilinear(V, V, torch.ones(2, 4, 4)),
    "einsum": lambda: torch.einsum("ab,bc->ac", A, B),
    "tensordot": lambda: torch.tensordot(A, B, 1),
    "conv1d": lambda: F.conv1d(A[None], torch.ones(2, 3, 1)),
    "conv2d": lambda: F.conv2d(A[None, None], torch.ones(1, 1, 2, 2)),
    "sdpa": lambda: F.scaled_dot_product_attention(*(torch.ones(1, 2, 3, 4),) * 3),
    "sdpa with mask": lambda: F.scaled_dot_product_attention(
        *(torch.ones(1, 2, 3, 4),) * 3, attn_mask=torch.ones(3, 3)
    ),
    "multi-head": lambda: nn.MultiheadAttention(4, 2).eval()(A, A, A),
    "cdist": lambda: torch.cdist(A, A),
}


class Runs(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self):
        return self.what()


@pytest.mark.parametrize("mode", MODES)
def test_every_kind_of_float_product_is_seen(mode, integer, tokens):
    recorder = record(integer, tokens())
    for name, product in PRODUCTS.items():
        before = multiplied(recorder, integer)
        with mode(), recorder:
            Runs(product)()
        assert multiplied(recorder, integer) > before, name


def multiplied(recorder, integer):
    """Calls of float products outside of the integer model."""
    listed = recorder.certificate(integer)["in_float"]
    return sum(entry["calls"] for entry in listed if entry["why"] == "it is no part of the integer model")


OTHERS = {
    "elementwise": lambda: A * A + A / 2 - A.exp(),
    "integers": lambda: torch._int_mm(torch.ones(32, 32, dtype=torch.int8), torch.ones(32, 32, dtype=torch.int8)),
    "integers in 64 bits": lambda: A.long() @ B.long(),
    "sums": lambda: torch.addcmul(A, A, A).sum() + F.layer_norm(A, (4,)).mean() + A.softmax(-1).amax(),
    "shapes": lambda: A.view(4, 3).transpose(0, 1).contiguous().reshape(2, 6),
    "lookups": lambda: F.embedding(torch.ones(2, dtype=torch.long), A),
    "interpolation": lambda: F.interpolate(A[None, None], scale_factor=2.0, mode="bilinear"),
}


@pytest.mark.parametrize("mode", MODES)
def test_nothing_else_is_taken_for_one(mode, integer, tokens):
    recorder = record(integer, tokens())
    for name, other in OTHERS.items():
        with mode(), recorder:
            Runs(other)()
        assert not multiplied(recorder, integer), name
