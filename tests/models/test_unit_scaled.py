"""Conversion to unit scale: theorem 5.2 on whole networks, the loss, scales, and what is refused (arXiv 2303.11257)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional as F
from transformers import AutoModelForCausalLM
from transformers.modeling_outputs import CausalLMOutput

from qexp.conf.errors import UserError
from qexp.kernels.unit_scaling import products, scale
from qexp.kernels.unit_scaling.constraints import none, to_output
from qexp.kernels.unit_scaling.residual import TauRule, depth_tau, fixed_tau, running_mean_tau
from qexp.kernels.unit_scaling.rules import PAPER, U_MUP, Rules, no_factor
from qexp.models.adapt import adapt
from qexp.models.charlm import CharLMConfig
from qexp.models.loading import finish
from qexp.models.sites import AdaptedModel
from qexp.models.surgery import set_dropout, set_probability
from qexp.models.tensor_scales import BAND, deviations, measure_scales, random_batch
from qexp.models.unit_scaled.convert import block_paths, convert
from qexp.models.unit_scaled.layers import is_unit_scaled, refuse_unit_scaled
from qexp.models.unit_scaled.loss import UnitScaledLoss

HEADED = [
    ("bert", "language"),
    ("bert", "classifier"),
    ("bert", "questions"),
    ("gpt2", "language"),
    ("gpt2", "classifier"),
]
HEADED += [("llama", "language"), ("llama", "classifier")]
FIXED = fixed_tau(0.3)
NO_FACTOR = replace(PAPER, attention=no_factor)
"""As the authors' character models."""
CHARACTERS = [("charlm", mixer) for mixer in ("attention", "conv", "rnn")]
ALL = HEADED + CHARACTERS
RULES = {
    "u_mup": U_MUP,
    "to_output": replace(PAPER, constraint=to_output),
    "b^-1": replace(PAPER, weight_exponent=-1.0),
}
WIDE: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 64, "n_head": 4, "n_positions": 64},
    "bert": {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 256, "max_position_embeddings": 64},
}
WIDE["llama"] = WIDE["bert"]


@pytest.fixture
def plain(network: Callable[..., Any]) -> Callable[..., AdaptedModel]:
    """(family, head or mixer, more dimensions) -> a network before conversion."""

    def make(family: str, head: str, **more: Any) -> AdaptedModel:
        torch.manual_seed(0)
        if family == "charlm":
            sizes = {"vocab_size": 61, "hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 2}
            config = CharLMConfig(**{**sizes, "mixer": head, "frequencies": 16, **more})
            return adapt(AutoModelForCausalLM.from_config(config).eval())
        model = network(family, head, **{"tie_word_embeddings": False, **more})
        if head == "classifier":
            model.config.problem_type = "single_label_classification"
        return adapt(finish(model, family))

    return make


@pytest.fixture
def make(plain: Callable[..., AdaptedModel]) -> Callable[..., AdaptedModel]:
    """The same, converted."""

    def converted(family: str, head: str, rules: Rules = PAPER, tau: TauRule = FIXED, **more: Any) -> AdaptedModel:
        model = plain(family, head, **more)
        convert(model, rules, tau)
        return model

    return converted


@pytest.fixture
def true_gradients(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it to be rid of backward factors: from then on every factor is an ordinary multiplication by alpha."""

    def plain_linear(x: Tensor, weight: Tensor, bias: Tensor | None, alpha: float, *betas: float) -> Tensor:
        product = alpha * (x @ weight.t())
        return product if bias is None else product + bias

    def switch() -> None:
        monkeypatch.setattr(scale._Scaled, "apply", lambda x, alpha, beta: x * alpha)
        monkeypatch.setattr(products._ScaledLinear, "apply", plain_linear)

    return switch


def parallel(model: AdaptedModel, true_gradients: Callable[[], None]) -> tuple[float, float]:
    """Over all parameters, the smallest cosine and the smallest ratio of gradients to the true ones."""
    network, batch = model.module.double(), random_batch(model, 4, 8)
    unseen: tuple[str, ...] = ("self.key.bias",)  # by the softmax
    if batch["labels"].shape == (4, 2):  # which is over all tokens here
        unseen += ("qa_outputs.bias", f"{block_paths(network)[-1]}.output.LayerNorm.bias")
    named = {name: p for name, p in network.named_parameters() if name != "cls.predictions.bias"}
    loss = network(**batch).loss
    ours = torch.autograd.grad(loss, list(named.values()))
    true_gradients()
    true_loss = network(**batch).loss
    theirs = torch.autograd.grad(true_loss, list(named.values()))
    assert torch.allclose(loss, true_loss, rtol=1e-12)
    cosines, ratios = [], []
    for name, a, b in zip(named, ours, theirs, strict=True):
        if not name.endswith(unseen):
            cosines.append(F.cosine_similarity(a.flatten(), b.flatten(), dim=0).item())
            ratios.append((a.norm() / b.norm()).item())
    return min(cosines), min(ratios)


@pytest.mark.parametrize(("family", "head"), ALL)
def test_every_gradient_is_the_true_one_times_a_positive_constant(
    make: Callable[..., AdaptedModel], true_gradients: Callable[[], None], family: str, head: str
) -> None:
    cosine, ratio = parallel(make(family, head), true_gradients)
    assert cosine == pytest.approx(1.0, abs=1e-9) and ratio > 0


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
@pytest.mark.parametrize(("family", "tau"), [("bert", running_mean_tau), ("gpt2", depth_tau(4))])
def test_so_it_is_with_every_rule(
    make: Callable[..., AdaptedModel], true_gradients: Callable[[], None], family: str, tau: TauRule, rules: Rules
) -> None:
    cosine, _ = parallel(make(family, "language", rules, tau), true_gradients)
    assert cosine == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("norm", ["pre", "post", "none"])
def test_so_it_is_with_every_place_of_the_norm(
    make: Callable[..., AdaptedModel], true_gradients: Callable[[], None], norm: str
) -> None:
    cosine, _ = parallel(make("charlm", "attention", norm=norm), true_gradients)
    assert cosine == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(("family", "head"), [("bert", "language"), ("gpt2", "language"), ("charlm", "conv")])
def test_so_it_is_not_where_one_layer_of_a_branch_breaks_the_rule(
    make: Callable[..., AdaptedModel], true_gradients: Callable[[], None], family: str, head: str
) -> None:
    model = make(family, head)
    inside = block_paths(model.module)[-1]
    breaker = next(m for n, m in model.module.named_modules() if n.startswith(inside) and _expands(m))
    breaker.rules = replace(PAPER, constraint=none)
    cosine, _ = parallel(model, true_gradients)
    assert cosine < 1 - 1e-4


def _expands(module: nn.Module) -> bool:
    weight = module._parameters.get("weight")
    return weight is not None and weight.ndim == 2 and weight.shape[0] != weight.shape[1]


@pytest.mark.parametrize(("family", "head"), ALL)
def test_the_loss_is_the_cross_entropy_of_the_logits(make: Callable[..., AdaptedModel], family: str, head: str) -> None:
    """torch's, with labels where each family has them; and its share in what is accumulated for one step."""
    model = make(family, head)
    batch = random_batch(model, 3, 8)
    if head != "classifier":
        batch["labels"][:, 2:4] = -100
    logits, labels = model.module(**batch).logits, batch["labels"]
    if family == "charlm":
        logits = torch.cat([torch.zeros(3, 1, 61), logits[:, :-1]], 1)
    elif head == "language" and family != "bert":
        logits, labels = logits[:, :-1], labels[:, 1:]
    expected = F.cross_entropy(logits.flatten(0, -2), labels.flatten())
    assert torch.allclose(model.module(**batch).loss, expected, rtol=1e-6)
    scored = (labels != -100).sum()
    assert torch.allclose(model.module(**batch, num_items_in_batch=4 * scored).loss, expected / 4, rtol=1e-6)


def test_accumulation_leaves_gradients_as_large_as_they_are(make: Callable[..., AdaptedModel]) -> None:
    model = make("gpt2", "language")
    batch, weight = random_batch(model, 4, 8), model.module.lm_head.weight
    alone = torch.autograd.grad(model.module(**batch).loss, weight)[0]
    share = torch.autograd.grad(model.module(**batch, num_items_in_batch=torch.tensor(1000)).loss, weight)[0]
    assert torch.equal(alone, share)


class Scores(nn.Module):
    """The smallest causal network."""

    loss_type = config = None

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> CausalLMOutput:
        return CausalLMOutput(logits=self.head(x))


class WithLoss(UnitScaledLoss, Scores):
    pass


@pytest.mark.filterwarnings("default")  # torch warns of itself while it traces
def test_compiled_the_loss_is_a_graph_of_its_own_with_the_same_gradients() -> None:
    """One graph of logits and loss would take a gradient of zeros, as large as the logits, in its backward."""
    network, graphs = WithLoss(), CompileCounterWithBackend("aot_eager")
    x, labels = torch.randn(2, 3, 4), torch.randint(5, (2, 3))
    expected = torch.autograd.grad(network(x, labels=labels).loss, network.head.weight)
    found = torch.autograd.grad(torch.compile(network, backend=graphs)(x, labels=labels).loss, network.head.weight)
    assert torch.equal(*found, *expected) and graphs.frame_count == 2


@pytest.mark.parametrize(("family", "head"), HEADED)
def test_every_scale_of_a_transformer_is_near_1_at_initialisation(
    make: Callable[..., AdaptedModel], family: str, head: str
) -> None:
    """tau as the authors' library advises: the paper's tau of its BERT runs is not known."""
    tau = lambda index: 0.5 if index % 2 else 0.01  # noqa: E731
    model = make(family, head, PAPER, tau, vocab_size=512, **WIDE[family])
    scales = deviations(measure_scales(model, random_batch(model, 16, 32)))
    outside = {(p, k): s for p, kinds in scales.items() for k, s in kinds.items() if not BAND[0] <= s <= BAND[1]}
    assert not outside and sum(map(len, scales.values())) > 50


def outside_of_the_band(model: AdaptedModel) -> dict[tuple[str, str], float]:
    """Place and kind -> scale, without biases' gradients: sums of correlated rows, which b^-1/2 does not bring to 1."""
    scales = deviations(measure_scales(model, random_batch(model, 8, 32)))
    inside = {(p, k): s for p, kinds in scales.items() for k, s in kinds.items() if k != "bias_gradient"}
    return {place: scale for place, scale in inside.items() if not BAND[0] <= scale <= BAND[1]}


SMALL = {"hidden_size": 64, "num_hidden_layers": 3, "intermediate_size": 256}


@pytest.mark.parametrize("mixer", ["attention", "conv", "rnn"])
def test_every_scale_of_a_character_model_is_near_1(make: Callable[..., AdaptedModel], mixer: str) -> None:
    assert not outside_of_the_band(make("charlm", mixer, PAPER, running_mean_tau, **SMALL))


def test_without_attentions_factor_only_what_reaches_its_scores_is_smaller(make: Callable[..., AdaptedModel]) -> None:
    found = outside_of_the_band(make("charlm", "attention", NO_FACTOR, running_mean_tau, **SMALL))
    assert {place.rpartition(".")[2] for place, _ in found} <= {"query", "key", "position", "scores"}
    assert found and min(found.values()) > 0.05


def test_an_ordinary_network_is_far_from_it(plain: Callable[..., AdaptedModel]) -> None:
    model = plain("gpt2", "language", vocab_size=512, **WIDE["gpt2"])
    model.module.apply(model.module._init_weights)
    scales = deviations(measure_scales(model, random_batch(model, 16, 32)))
    assert scales["h.0.attn.query"]["gradient"] < 1e-4 < BAND[0] < scales["ln_f"]["activation"]


def test_measuring_changes_nothing(make: Callable[..., AdaptedModel]) -> None:
    model = make("bert", "language", hidden_dropout_prob=0.1)
    before, state = copy.deepcopy(model.module.state_dict()), torch.random.get_rng_state()
    first = measure_scales(model, random_batch(model, 4, 8))
    assert torch.equal(torch.random.get_rng_state(), state) and not model.module.training
    assert all(torch.equal(value, before[name]) for name, value in model.module.state_dict().items())
    assert all(p.grad is None for p in model.module.parameters())
    assert not any(module._forward_hooks for module in model.module.modules())
    assert {"weight", "activation", "gradient", "weight_gradient", "bias_gradient"} == {
        k for r in first.values() for k in r
    }


def test_without_labels_there_are_no_gradients(make: Callable[..., AdaptedModel]) -> None:
    model = make("llama", "language")
    found = measure_scales(model, {"input_ids": random_batch(model, 2, 8)["input_ids"]})
    assert {kind for kinds in found.values() for kind in kinds} == {"weight", "activation"}


@pytest.mark.parametrize(("family", "head"), ALL)
def test_parameters_keep_names_and_shapes_and_begin_unit_scaled(
    make: Callable[..., AdaptedModel], plain: Callable[..., AdaptedModel], family: str, head: str
) -> None:
    before, after = (dict(m.module.named_parameters()) for m in (plain(family, head), make(family, head)))
    assert {n: p.shape for n, p in before.items()} == {n: p.shape for n, p in after.items()}
    large = {n: p.std().item() for n, p in after.items() if p.ndim > 1 and p.numel() >= 200}
    assert all(std == pytest.approx(1.0, abs=0.2) for std in large.values())


@pytest.mark.parametrize("decoder", ["gpt2", "llama", "charlm"])
def test_no_one_looks_ahead(make: Callable[..., AdaptedModel], decoder: str) -> None:
    model = make(decoder, "attention" if decoder == "charlm" else "language")
    tokens = random_batch(model, 2, 8)["input_ids"]
    changed = tokens.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 61
    first, second = (model.module(input_ids=t).logits[:, :5] for t in (tokens, changed))
    assert torch.allclose(first, second, atol=1e-5)


def test_dropout_of_attention_counts_in_evaluation_too(make: Callable[..., AdaptedModel], plain: Any) -> None:
    bare = plain("gpt2", "language")
    set_dropout(bare.module, 0.5)
    convert(bare, PAPER, fixed_tau(0.3))
    assert bare.module.transformer.h[0].attn.qexp.rescale.dropout == 0.5
    assert make("gpt2", "language").module.transformer.h[0].attn.qexp.rescale.dropout == 0.0


def test_tied_embeddings_are_refused_by_name(plain: Callable[..., AdaptedModel]) -> None:
    with pytest.raises(UserError, match=r"lm_head shares its weight with transformer\.wte.*tie_word_embeddings=false"):
        convert(plain("gpt2", "language", tie_word_embeddings=True), PAPER, fixed_tau(0.5))


@pytest.mark.parametrize("family", ["opt", "roberta"])
def test_other_families_are_refused(plain: Callable[..., AdaptedModel], family: str) -> None:
    with pytest.raises(UserError, match=f"{family} models have no unit-scaled form; those of bert, gpt2, llama"):
        convert(plain(family, "language"), PAPER, fixed_tau(0.5))


@pytest.mark.parametrize(
    ("family", "more", "named"),
    [
        ("gpt2", {"activation_function": "quick_gelu"}, r"transformer\.h\.0\.mlp\.act is a QuickGELUActivation"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, r"h\.0\.attn: scale_attn_by_inverse_layer_idx"),
        ("bert", {"hidden_act": "mish"}, r"intermediate_act_fn is a MishActivation, which has no unit-scaled form"),
    ],
)
def test_what_has_no_unit_scaled_form_is_refused_by_name(
    plain: Callable[..., AdaptedModel], family: str, more: dict[str, Any], named: str
) -> None:
    with pytest.raises(UserError, match=named):
        convert(plain(family, "language", **more), PAPER, fixed_tau(0.5))


def test_changed_attention_is_refused_with_both_names(plain: Callable[..., AdaptedModel]) -> None:
    model = plain("gpt2", "language")
    set_probability(model, lambda info: nn.Softmax(-1), owner="clipped_softmax")
    with pytest.raises(UserError, match="'clipped_softmax' and 'unit_scaling' both set the attention's probability"):
        convert(model, PAPER, fixed_tau(0.5))


def test_integer_products_of_a_unit_scaled_network_are_refused(make: Callable[..., AdaptedModel]) -> None:
    model = make("gpt2", "language")
    assert is_unit_scaled(model.module.lm_head)
    with pytest.raises(UserError, match=r"transformer\.wte is unit-scaled, and an integer product would drop"):
        refuse_unit_scaled(model.module, "an integer product")


def test_sites_without_a_weight_are_gone(make: Callable[..., AdaptedModel]) -> None:
    """u-muP's RMS norms have no gains."""
    paper, u_mup = make("llama", "language"), make("llama", "language", U_MUP)
    assert "final_norm_weight" in paper.sites and "final_norm_weight" not in u_mup.sites
