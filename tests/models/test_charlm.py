"""The character language models: causal, equal to slow references, initialised as published, saved and quantized."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from qexp.conf.errors import UserError
from qexp.conf.schema import ModelConfig, QuantConfig, QuantizerConfig
from qexp.kernels.unit_scaling.residual import residual_add, running_mean_tau
from qexp.models.adapt import adapt
from qexp.models.blocks import block_paths
from qexp.models.charlm import CharLMConfig, CharLMForCausalLM
from qexp.models.charlm.attention import MASKED, RelativeAttention, Sinusoids, places_of_distances
from qexp.models.charlm.layers import CausalConv, ResidualAdd, ResidualLayer
from qexp.models.charlm.recurrent import Recurrence
from qexp.models.loading import load_model, load_tokenizer
from qexp.models.quantization import quantize_model
from qexp.models.saving import load_saved, save_model
from qexp.models.statistics import measure_outliers

MIXERS, NORMS = ("attention", "conv", "rnn"), ("pre", "post", "none")
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "frequencies": 8, "groups": 4}
VOCAB = 61


def small(mixer: str, **changes: Any) -> CharLMConfig:
    return CharLMConfig(**{"vocab_size": VOCAB, "mixer": mixer, **SIZES, **changes})


def make(mixer: str, **changes: Any) -> Any:
    """A network with spread-out weights, so that no bias, gain or position is without effect."""
    torch.manual_seed(3)
    model = CharLMForCausalLM(small(mixer, **changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def characters(rows: int = 3, length: int = 9) -> Tensor:
    return torch.randint(0, VOCAB, (rows, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("adapted", [False, True])
def test_no_character_sees_a_later_one_and_each_sees_those_before(mixer: str, norm: str, adapted: bool) -> None:
    model, ids = make(mixer, norm=norm), characters()
    if adapted:
        adapt(model)
    other = ids.clone()
    other[:, 5] = (other[:, 5] + 1) % VOCAB
    with torch.no_grad():
        before, after = model(input_ids=ids).logits, model(input_ids=other).logits
    assert before.shape == (3, 9, VOCAB)
    changed = (before != after).any(-1).any(0)
    assert changed.tolist() == [False] * 5 + [True] * 4


@pytest.mark.parametrize("mixer", MIXERS)
def test_adapting_changes_neither_parameters_nor_what_is_computed(mixer: str) -> None:
    model, ids = make(mixer), characters()
    names = list(model.state_dict())
    expected = model(input_ids=ids).logits
    first = adapt(model)
    fused = model(input_ids=ids).logits
    measure_outliers(first, [{"input_ids": ids}])
    for info in first.attention:  # a hook takes the way of scores and probabilities one by one
        model.get_submodule(f"{info.module}.qexp.scores").register_forward_hook(lambda *_: None)
    assert torch.allclose(fused, expected, atol=1e-5) and torch.allclose(model(input_ids=ids).logits, fused, atol=1e-5)
    assert list(model.state_dict()) == names and tuple(adapt(model).sites) == tuple(first.sites)
    assert len(block_paths(first)) == 2


def test_places_of_distances_is_the_loop() -> None:
    scores = torch.randn(2, 3, 7, 7)
    placed = places_of_distances(scores)
    assert placed.shape == scores.shape
    for i in range(7):
        for j in range(i + 1):
            assert torch.equal(placed[..., i, j], scores[..., i, i - j])


def test_sinusoids_are_pairs_with_periods_from_two_places_to_the_longest() -> None:
    waves = Sinusoids(6, max_period=40)(81, torch.zeros((), dtype=torch.float64))
    places = torch.arange(81, dtype=torch.float64)[:, None]
    assert torch.allclose(waves[:, ::2] ** 2 + waves[:, 1::2] ** 2, torch.ones(81, 3, dtype=torch.float64))
    assert torch.allclose(waves[:, 1::4], torch.cos(places * torch.tensor([math.pi, 2 * math.pi / 40])), atol=1e-5)


def test_attention_is_its_formula_loop_by_loop() -> None:
    layer = RelativeAttention(small("attention")).double()
    layer.config._attn_implementation = "sdpa"
    x = torch.randn(2, 6, 16, dtype=torch.float64)
    query, key, value = (part.view(2, 6, 2, 8) for part in layer.qkv(x).chunk(3, -1))
    distance = layer.position(layer.sinusoids(6, x)).view(6, 2, 8)
    context = torch.zeros(2, 6, 2, 8, dtype=torch.float64)
    for b in range(2):
        for head in range(2):
            for i in range(6):
                q = query[b, i, head]
                scores = [q @ (key[b, j, head] + distance[i - j, head]) / math.sqrt(8) for j in range(i + 1)]
                context[b, i, head] = torch.stack(scores).softmax(0) @ value[b, : i + 1, head]
    assert torch.allclose(layer(x), layer.output(context.flatten(2)), atol=1e-12)
    assert torch.isfinite(torch.tensor(MASKED, dtype=torch.float16))


def test_convolution_is_its_formula_loop_by_loop() -> None:
    layer = CausalConv(small("conv", kernel_size=3)).double()
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    weight, expected = layer.conv.weight, layer.conv.bias.expand(2, 5, 16).clone()
    for channel in range(16):
        inputs = slice(channel // 4 * 4, channel // 4 * 4 + 4)
        for t in range(5):
            for back in range(min(t, 2) + 1):
                expected[:, t, channel] += x[:, t - back, inputs] @ weight[channel, :, 2 - back]
    assert torch.allclose(layer(x), expected.relu(), atol=1e-12)


def test_recurrence_is_a_coupled_highway_from_its_trained_first_state() -> None:
    layer = Recurrence(small("rnn")).double()
    nn.init.normal_(layer.initial.state)
    x, hidden = torch.randn(2, 5, 16, dtype=torch.float64), layer.initial.state.expand(2, -1)
    out = layer(x)
    for t in range(5):
        both = torch.cat([x[:, t], hidden], -1) @ layer.cell.gates.weight.T + layer.cell.gates.bias
        update = torch.sigmoid(both[:, 16:] - 1.0)
        hidden = (1 - update) * hidden + update * torch.tanh(both[:, :16])
        assert torch.allclose(out[:, t], hidden, atol=1e-12)


@pytest.mark.parametrize("mixer", MIXERS)
def test_the_loss_scores_every_character_the_first_by_the_padding_vector(mixer: str) -> None:
    model, ids = make(mixer), characters()
    model.zero_grad()
    labels = ids.clone()
    labels[1, :4] = -100
    output = model(input_ids=ids, labels=labels)
    scores = torch.cat([model.shift.padding.expand(3, 1, -1), output.logits[:, :-1]], 1)
    assert torch.allclose(output.loss, F.cross_entropy(scores.transpose(1, 2), labels), rtol=1e-6)
    output.loss.backward()
    untouched = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert untouched == []


@pytest.mark.parametrize("tau", [None, "running_mean", 0.3])
def test_residual_sums_weigh_as_unit_scalings_do(tau: Any) -> None:
    config, branch, skip = small("conv", tau=tau), torch.randn(4), torch.randn(4)
    for index in range(5):
        found = ResidualAdd(config.tau_of(index))(branch, skip)
        if tau is None:
            assert torch.equal(found, skip + branch)
        else:
            share = running_mean_tau(index) if tau == "running_mean" else 0.3
            assert torch.allclose(found, residual_add(branch, skip, share))
    layers = [module for module in make("conv", tau=tau).modules() if isinstance(module, ResidualLayer)]
    assert [layer.add.tau for layer in layers] == [config.tau_of(index) for index in range(4)]


def test_norms_stand_where_they_are_asked_for() -> None:
    x = torch.randn(2, 9, 16)
    pre, post, none = (make("conv", norm=norm).model.layers[1].feed_forward for norm in NORMS)
    inside = pre.branch(pre.norm(x))
    assert torch.equal(pre(x), pre.add(inside, x))
    assert torch.equal(post(x), post.norm(post.add(post.branch(x), x)))
    assert none.norm is None and torch.equal(none(x), none.add(none.branch(x), x))


def test_weights_begin_with_the_published_variances() -> None:
    torch.manual_seed(0)
    attention = CharLMForCausalLM(CharLMConfig(vocab_size=200, num_hidden_layers=1, frequencies=64))
    conv, rnn = (CharLMForCausalLM(CharLMConfig(mixer=m, num_hidden_layers=1)) for m in ("conv", "rnn"))
    branch = attention.model.layers[0].mixer.branch
    wanted = {
        attention.model.embedding.weight: 1.0,
        branch.qkv.weight: 1 / 128,
        branch.position.weight: 1 / 64,
        branch.output.weight: 2 / (128 + 128),
        attention.readout.weight: 2 / (128 + 200),
        attention.model.layers[0].feed_forward.branch.up.weight: 2 / (128 + 512),
        conv.model.layers[0].mixer.branch.conv.weight: 2 / (7 * 16 + 7 * 128),
        rnn.model.layers[0].mixer.branch.cell.gates.weight: 1 / 256,
    }
    for weight, variance in wanted.items():
        assert weight.var().item() == pytest.approx(variance, rel=0.05)  # 8,192 draws and more
        assert weight.abs().max().item() <= math.sqrt(3 * variance) * (1 + 1e-6)
    assert not any(p.any() for name, p in rnn.named_parameters() if name.endswith(("bias", "padding", "state")))


TEXTS = ["a b c d e", "the quick brown fox"] * 5


def described(mixer: str, **changes: Any) -> ModelConfig:
    dimensions = {"mixer": mixer, **SIZES, **changes}
    settings = {"source": "scratch", "family": "charlm", "tokenizer": "characters", "dimensions": dimensions}
    return ModelConfig(name="charlm", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("mixer", MIXERS)
def test_it_is_loaded_by_seed_and_saved_and_reloaded_with_the_same_logits(mixer: str, tmp_path: Path) -> None:
    cfg = described(mixer)
    tokenizer = load_tokenizer(cfg, TEXTS, None, tmp_path)
    first, again, other = (load_model(cfg, "causal_lm", None, tokenizer, 10**6, seed) for seed in (1, 1, 2))
    ids = characters() % len(tokenizer)
    logits = first(input_ids=ids).logits
    assert torch.equal(again(input_ids=ids).logits, logits) and not torch.equal(other(input_ids=ids).logits, logits)
    adapted = adapt(first)
    logits = first(input_ids=ids).logits
    save_model(adapted, tokenizer, tmp_path / "m", {"methods": [{"name": "vanilla", "settings": {}}], "max_length": 8})
    reloaded, _ = load_saved(tmp_path / "m", "causal_lm", None, lambda *_: None)
    assert torch.equal(reloaded.module(input_ids=ids).logits, logits)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert torch.allclose(plain(input_ids=ids).logits, logits, atol=1e-5)
    hub = ModelConfig(name="hub", source="hub", path=str(tmp_path / "m"))
    assert torch.allclose(load_model(hub, "causal_lm", None, tokenizer, 64, 0)(input_ids=ids).logits, logits, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"norm": "both"}, "norm"),
        ({"tau": 1.5}, "tau=1.5: a number between 0 and 1, running_mean or null is needed"),
        ({"hidden_size": 18}, "hidden_size=18 is no multiple of 4 heads or groups"),
        ({"frequencies": 3}, "frequencies=3: an even number, 4 at least, is needed"),
        ({"head": 2}, "model.dimensions.head is no setting of the charlm configuration"),
    ],
)
def test_dimensions_that_do_not_fit_are_one_line(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    cfg = described("conv", **changes)
    tokenizer = load_tokenizer(cfg, TEXTS, None, tmp_path)
    with pytest.raises(UserError, match=said) as caught:
        load_model(cfg, "causal_lm", None, tokenizer, 8, seed=0)
    assert "\n" not in str(caught.value)


def test_it_has_no_other_head(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(described("rnn"), TEXTS, None, tmp_path)
    for objective in ("masked_lm", "classification"):
        with pytest.raises(UserError, match="predict the next character only, no .*: choose task=wikitext2_chars"):
            load_model(described("rnn"), objective, 2, tokenizer, 8, seed=0)  # type: ignore[arg-type]


SITES = {
    "attention": "norm_weight norm qkv_weight qkv scores probs context output_weight output residual",
    "conv": "norm_weight norm weight output residual",
    "rnn": "norm_weight norm gates_weight output residual",
}
FFN = "ffn_norm_weight ffn_norm ffn_hidden_weight ffn_hidden ffn_output_weight ffn_output ffn_residual"


@pytest.mark.parametrize("mixer", MIXERS)
def test_sites_of_a_block_in_forward_order(mixer: str) -> None:
    plain = ("qkv_weight", "qkv", "context")
    own = [role if role in plain else f"{mixer}_{role}" for role in SITES[mixer].split()]
    sites = adapt(make(mixer)).sites
    assert [site.role for site in sites if site.layer == 1] == [*own, *FFN.split()]
    assert [site.name for site in sites if site.layer is None] == [
        *("embeddings.token_weight", "embeddings.norm_weight", "embeddings.norm", "final_norm_weight", "final_norm"),
    ]


@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("mixer", MIXERS)
def test_it_can_be_measured_and_quantized(mixer: str, norm: str, granularity: Any) -> None:
    model, batch = adapt(make(mixer, norm=norm)), {"input_ids": characters()}
    found = measure_outliers(model, [batch])
    assert list(found["sites"]) == [site.name for site in model.sites.activations()]
    assert found["summary"]["inf_norm_roles"] == ["ffn_norm" if norm == "post" else "ffn_residual"]
    weights = QuantizerConfig(symmetric=True, granularity=granularity)
    fine, coarse = (
        quantize_model(model, QuantConfig("q", weights=weights), bits, [batch]) for bits in ("w16a16", "w3a3")
    )
    with torch.no_grad():
        expected, near, far = (network(**batch).logits for network in (model.module, fine, coarse))
    assert (near - expected).abs().max() < 0.02 * expected.std() < (far - expected).abs().max()
