"""An integer model does what the simulated one does, layer by layer, up to the order in which floats are summed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from qexp.conf.errors import UserError
from qexp.conf.schema import QuantConfig, QuantizerConfig
from qexp.kernels.attention import clipped_softmax
from qexp.kernels.gates import AllHeadsLinearGate, LinearGate
from qexp.kernels.quantizers import Quantizer
from qexp.kernels.ranges import RangeEstimator
from qexp.models.adapt import adapt
from qexp.models.attachment import quantizer_at
from qexp.models.integer import integer_model
from qexp.models.integer_conversion import Conversion
from qexp.models.integer_layers import IntegerAttention, IntegerEmbedding, IntegerLinear, weight_codes, weight_values
from qexp.models.quantization import quantize_model
from qexp.models.surgery import parts_of, set_gate, set_probability

ASYMMETRIC = QuantizerConfig(symmetric=False, granularity="per_channel")
SETTINGS = {
    "w8a8": ("w8a8", {}),
    "w4a8": ("w4a8", {}),
    "w8a6": ("w8a6", {}),
    "per channel": ("w8a8", {"weights": QuantizerConfig(symmetric=True, granularity="per_channel")}),
    "asymmetric weights": ("w8a8", {"weights": QuantizerConfig(symmetric=False)}),
    "asymmetric per channel": ("w4a8", {"weights": ASYMMETRIC}),
    "symmetric activations": ("w8a8", {"activations": QuantizerConfig(symmetric=True)}),
}
SHAPES = pytest.mark.parametrize("family", ["bert", "gpt2", "opt", "llama"])
"""The families whose layers differ: RoBERTa and ERNIE have BERT's."""
POST_NORM = {"do_layer_norm_before": False, "word_embed_proj_dim": 8}


class Clipped(nn.Module):
    stretch = (-0.1, 1.0)

    def forward(self, x):
        return clipped_softmax(x, *self.stretch)


class Cubed(nn.Module):
    """A probability function that no kernel knows."""

    def forward(self, x):
        return torch.softmax(x, -1) ** 3


def gated(adapted, gate=LinearGate):
    torch.manual_seed(1)
    widths = (lambda info: info.width) if gate is AllHeadsLinearGate else (lambda info: info.width // info.heads)
    set_gate(adapted, lambda info: gate(info.heads, widths(info), 0.5), owner="gated")
    return adapted


def convert(adapted, tokens, bits="w8a8", **spec):
    quantized = quantize_model(adapted, QuantConfig(name="t", **spec), bits, [tokens(), tokens(seed=1)])
    return quantized, integer_model(quantized, adapted, "reference")


@pytest.fixture(params=SETTINGS)
def setting(request):
    return SETTINGS[request.param]


def inputs_and_outputs(adapted, quantized, batch):
    """Linear layer -> what it took and gave in the simulated network."""
    seen = {}
    for info in adapted.linears:
        module = quantized.get_submodule(info.module)
        module.register_forward_hook(lambda _, args, out, key=info.name: seen.update({key: (args[0], out)}))
    with torch.no_grad():
        quantized(**batch)
    return seen


@SHAPES
def test_every_linear_layer_is_the_simulated_one(family, setting, network, tokens):
    """Equal up to the rounding of the simulated sums; a code differs only where that error spans its boundary."""
    bits, spec = setting
    adapted = adapt(network(family))
    quantized, integer = convert(adapted, tokens, bits, **spec)
    seen = inputs_and_outputs(adapted, copy.deepcopy(quantized), tokens(seed=2))
    for info in adapted.linears:
        layer, (x, expected) = quantized.get_submodule(info.module), seen[info.name]
        found = integer.module.get_submodule(info.module)(x)
        weight = (layer.weight.t() if isinstance(layer, Conv1D) else layer.weight).double()
        bias = torch.zeros(len(weight)) if layer.bias is None else layer.bias
        exact = x.double() @ weight.t() + bias
        # every one of K products, sums and rescalings rounds by at most 2^-24 of what was summed up so far
        error = (weight.shape[1] + 4) * 2**-24 * (x.abs().double() @ weight.abs().t() + bias.abs())
        if info.output is None:
            assert ((found - exact).abs() <= error).all() and ((found - expected).abs() <= 2 * error).all()
        else:
            step = quantizer_at(quantized, adapted.sites[info.output]).qparams.scale
            flipped = (found - expected).abs() > step / 2
            to_boundary = (exact / step + 0.5).frac().abs() - torch.tensor([[0.0], [1.0]]).unsqueeze(-1).unsqueeze(-1)
            near = to_boundary.abs().amin(0).reshape(exact.shape) * step <= error
            assert ((found - expected).abs() <= 1.001 * step).all() and not (flipped & ~near).any(), info.name


def test_outputs_are_the_simulated_ones(family, head, network, tokens, output_of):
    adapted = adapt(network(family, head))
    quantized, integer = convert(adapted, tokens)
    batch = tokens(padding="left", seed=3)
    real = batch["attention_mask"].bool() if head != "classifier" else slice(None)
    simulated, executed = output_of(quantized, batch)[real], output_of(integer.module, batch)[real]
    # the same codes everywhere, and a head in the same floats
    torch.testing.assert_close(executed, simulated, rtol=1e-5, atol=1e-5)


@SHAPES
def test_executed_is_far_closer_to_simulated_than_simulated_to_float(family, setting, network, tokens, output_of):
    bits, spec = setting
    adapted = adapt(network(family))
    quantized, integer = convert(adapted, tokens, bits, **spec)
    batch = tokens(rows=8, length=20, seed=4)
    plain, simulated, executed = (output_of(m, batch) for m in (adapted.module, quantized, integer.module))
    # by row: a code that rounding flips moves the rest of its sequence, and which are flipped the processor decides
    gaps = (executed - simulated).abs().flatten(1).mean(1)
    assert gaps.median() < 0.02 * (simulated - plain).abs().mean()
    assert (executed.argmax(-1) == simulated.argmax(-1)).double().mean() > 0.99


@SHAPES
@pytest.mark.parametrize(("make", "gate"), [(Clipped, None), (Cubed, LinearGate), (Clipped, AllHeadsLinearGate)])
def test_probability_functions_and_gates_stay_what_they_are(family, make, gate, network, tokens, output_of):
    adapted = adapt(network(family))
    set_probability(adapted, lambda _: make(), owner="probability")
    quantized, integer = convert(gated(adapted, gate) if gate else adapted, tokens)
    torch.testing.assert_close(output_of(integer.module, tokens(seed=2)), output_of(quantized, tokens(seed=2)))


@pytest.mark.parametrize("changes", [POST_NORM, {"word_embed_proj_dim": 8}])
def test_projections_of_opt_read_the_tables_grid(changes, network, tokens, output_of):
    adapted = adapt(network("opt", **changes))
    quantized, integer = convert(adapted, tokens)
    assert not [layer for layer in integer.in_float if layer.name != "lm_head"]
    torch.testing.assert_close(output_of(integer.module, tokens(seed=2)), output_of(quantized, tokens(seed=2)))


@SHAPES
@pytest.mark.parametrize("backend", ["auto", "tiled"])
def test_back_ends_agree(family, backend, network, tokens, output_of):
    adapted = adapt(network(family))
    quantized, reference = convert(adapted, tokens)
    other = integer_model(quantized, adapted, backend)
    # the fused kernel's exponential may differ in its last places, which a grid of probabilities hides but for flips
    torch.testing.assert_close(
        output_of(other.module, tokens()), output_of(reference.module, tokens()), atol=0.05, rtol=0.0
    )
    assert other.claimed == reference.claimed and other.backend != "auto"


@SHAPES
@pytest.mark.parametrize("has_gate", [False, True])
def test_a_quantizer_that_is_built_into_the_products_is_not_missed(
    family, has_gate, network, tokens, output_of, monkeypatch
):
    """Where only integer layers read a site they quantize it themselves: without or with its hook, the same bits."""
    adapted = gated(adapt(network(family))) if has_gate else adapt(network(family))
    quantized, once = convert(adapted, tokens)
    monkeypatch.setattr(Conversion, "_retire_inputs", lambda self: None)
    twice = integer_model(quantized, adapted, "reference")
    assert torch.equal(output_of(once.module, tokens()), output_of(twice.module, tokens()))
    hooks = [sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in i.module.modules()) for i in (once, twice)]
    assert hooks[0] < hooks[1]


def test_everything_in_the_body_is_claimed_and_the_head_listed(family, head, network, tokens):
    adapted = adapt(network(family, head))
    quantized, integer = convert(adapted, tokens)
    names = {kind: [c.name for c in integer.claimed if c.kind == kind] for kind in ("linear", "embedding")}
    assert names["linear"] == [info.name for info in adapted.linears]
    tables = [s for s in adapted.sites.weights() if s.name.startswith("embeddings.") and "norm" not in s.name]
    assert names["embedding"] == [site.name.removesuffix("_weight") for site in tables]
    products = [c.name for c in integer.claimed if c.kind.startswith("attention_")]
    assert products == [f"layers.{i}.{product}" for i in range(2) for product in ("attention_scores", "context")]
    assert {layer.why for layer in integer.in_float} <= {"the head has no quantizer sites"}
    assert bool(integer.in_float) == (head != "base" or family in ("bert", "roberta", "ernie"))
    assert integer.bits == "w8a8" and integer.backend == "reference" and not integer.module.training


@SHAPES
def test_the_float_weights_are_gone_and_the_rest_is_counted(family, network, tokens):
    adapted = adapt(network(family))
    quantized, integer = convert(adapted, tokens)
    converted = 0
    for claim in integer.claimed:
        module = integer.module.get_submodule(claim.module)
        if claim.kind == "linear":
            assert isinstance(module, IntegerLinear) and module.packed.unpack().dtype == torch.int8
            assert all(parameter.ndim == 1 for parameter in module.parameters()), "nothing but a bias"
        elif claim.kind == "embedding":
            assert isinstance(module, IntegerEmbedding) and module.weight.dtype == torch.int8
        else:
            assert isinstance(module, IntegerAttention)
        if claim.kind in ("linear", "embedding"):
            converted += 4 * quantized.get_submodule(claim.module).weight.numel()
    memory, total = integer.memory, sum(p.nbytes for p in set(quantized.parameters()))
    assert memory.converted_float32_bytes == converted
    assert memory.still_float_bytes == total - converted
    assert 0.25 < memory.ratio < 0.25 + (8 * len(integer.claimed) + 4 * 64 * len(adapted.linears)) / converted


def test_weights_come_back_from_their_codes_bit_for_bit():
    torch.manual_seed(0)
    for bits, symmetric in ((8, True), (8, False), (4, True), (5, False)):
        for weight in (torch.randn(7, 9), torch.rand(7, 9)):
            quantizer = Quantizer(bits, symmetric, RangeEstimator())
            quantizer.mode = "estimate"
            quantizer(weight)
            quantizer.freeze()
            baked = quantizer(weight)
            codes = weight_codes(baked, quantizer.qparams)
            assert codes.dtype == torch.int8
            assert torch.equal(weight_values(codes, quantizer.qparams), baked)


@SHAPES
def test_the_simulated_network_stays_as_it_is(family, network, tokens, output_of):
    adapted = adapt(network(family))
    quantized = quantize_model(adapted, QuantConfig(name="t"), "w8a8", [tokens()])
    expected, before = output_of(quantized, tokens()), copy.deepcopy(quantized.state_dict())
    integer_model(quantized, adapted, "reference")
    after = quantized.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
    assert torch.equal(output_of(quantized, tokens()), expected)


@pytest.mark.parametrize(
    ("bits", "spec", "layer", "words"),
    [
        ("w8a8", {"exclude": ("attention_norm",)}, "layers.1.ffn_hidden", "its input layers.1.attention_norm is not"),
        ("w8a8", {"exclude": ("ffn_output_weight",)}, "layers.0.ffn_output", "its weight is not quantized"),
        ("w8a8", {"exclude": ("value",)}, "layers.0.attention", "its operand layers.0.value is not quantized"),
        ("w8a8", {"exclude": ("attention_probs",)}, "layers.0.attention", "layers.0.attention_probs is not"),
        ("w8a8", {"exclude": ("embeddings.token_weight",)}, "embeddings.token", "its table is not quantized"),
        ("w16a8", {}, "layers.0.query", "its weight has 16 bits"),
    ],
)
def test_what_cannot_be_executed_stays_as_it_was_and_says_why(bits, spec, layer, words, network, tokens, output_of):
    adapted = adapt(network("bert"))
    quantized, integer = convert(adapted, tokens, bits, **spec)
    whys = {listed.name: listed.why for listed in integer.in_float}
    assert words in whys[layer] and layer not in [claim.name for claim in integer.claimed]
    torch.testing.assert_close(output_of(integer.module, tokens()), output_of(quantized, tokens()))


@SHAPES
@pytest.mark.parametrize(
    ("bits", "spec", "words"),
    [
        ("w8a16", {}, "16 bits"),
        ("w8a8", {"activations": QuantizerConfig(symmetric=False, granularity="per_token")}, "quantized per_token"),
        ("w8a8", {"activations": QuantizerConfig(symmetric=False, granularity="per_channel")}, "per_channel"),
        ("w8a32", {}, "is not quantized"),
    ],
)
def test_nothing_to_execute_is_an_error_with_the_reason(family, bits, spec, words, network, tokens):
    adapted = adapt(network(family))
    with pytest.raises(UserError, match=f"no product can be executed in integers; layers.0.*{words}"):
        convert(adapted, tokens, bits, **spec)


@SHAPES
def test_scores_need_no_grid(family, network, tokens, output_of):
    adapted = adapt(network(family))
    quantized, integer = convert(adapted, tokens, exclude=("attention_scores",))
    assert "layers.0.attention_scores" in [claim.name for claim in integer.claimed]
    torch.testing.assert_close(output_of(integer.module, tokens()), output_of(quantized, tokens()))


def test_a_gate_behind_the_context_site_keeps_its_output_projection_in_float(network, tokens, output_of):
    adapted = gated(adapt(network("opt")))
    quantized, integer = convert(adapted, tokens)
    whys = {layer.name: layer.why for layer in integer.in_float}
    assert "a gate stands between" in whys["layers.0.attention_output"]
    assert isinstance(parts_of(integer.adapted, adapted.attention[0]).integer, IntegerAttention)


def test_an_output_on_a_wider_grid_keeps_its_own_quantizer(network, tokens, output_of):
    adapted = adapt(network("gpt2"))
    quantized = quantize_model(adapted, QuantConfig(name="t", roles=("all",)), "w8a8", [tokens()])
    wide = quantize_model(adapted, QuantConfig(name="t", roles=("ffn_output",)), "w32a12", [tokens()])
    for info in adapted.linears:
        if info.name.endswith("ffn_output"):
            layer = quantized.get_submodule(info.module)
            layer.output_quantizer = wide.get_submodule(f"{info.module}.output_quantizer")
    integer = integer_model(quantized, adapted, "reference")
    assert "layers.1.ffn_output" in [claim.name for claim in integer.claimed] and integer.bits == "w8a8/12"
    torch.testing.assert_close(output_of(integer.module, tokens()), output_of(quantized, tokens()))


def test_a_weight_off_its_grid_is_refused(network, tokens):
    adapted = adapt(network("opt"))
    quantized = quantize_model(adapted, QuantConfig(name="t"), "w8a8", [tokens()])
    quantized.model.decoder.layers[1].fc1.weight.data += 1e-3
    with pytest.raises(UserError, match="site layers.1.ffn_hidden_weight: the weight does not lie on its grid"):
        integer_model(quantized, adapted, "reference")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_nan_or_infinity_names_the_site(value, network, tokens, output_of):
    adapted = adapt(network("gpt2"))
    _, integer = convert(adapted, tokens)
    integer.module.transformer.h[1].ln_2.bias.data[0] = value
    with pytest.raises(UserError, match="site layers.1.ffn_norm: NaN or infinity"):
        output_of(integer.module, tokens())


def test_an_unknown_back_end_is_refused(network, tokens):
    adapted = adapt(network("bert"))
    quantized = quantize_model(adapted, QuantConfig(name="t"), "w8a8", [tokens()])
    with pytest.raises(UserError, match="kernels.int8=abacus: unknown int8 back end 'abacus'"):
        integer_model(quantized, adapted, "abacus")


@SHAPES
def test_a_deep_copy_runs_alone(family, network, tokens, output_of):
    _, integer = convert(adapt(network(family)), tokens)
    twin = copy.deepcopy(integer.module)
    expected = output_of(integer.module, tokens())
    assert torch.equal(output_of(twin, tokens()), expected)
    for quantizer in (m for m in twin.modules() if isinstance(m, Quantizer)):
        quantizer.scale.mul_(2.0)
    assert torch.equal(output_of(integer.module, tokens()), expected)
