"""What the adapters say of linear layers and attention operands: every one is there, and reads the site it names."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from qexp.models.adapt import adapt
from qexp.models.capture import capture
from qexp.models.sites import LinearInfo
from qexp.models.surgery import parts_of

ENCODER = ["query", "key", "value", "attention_output", "ffn_hidden", "ffn_output"]
ROLES = {
    **dict.fromkeys(("bert", "roberta", "ernie", "opt"), ENCODER),
    "gpt2": ["qkv", "attention_output", "ffn_hidden", "ffn_output"],
    "llama": ["query", "key", "value", "attention_output", "gate_activation", "up", "ffn_output"],
}
POST_NORM = {"do_layer_norm_before": False, "word_embed_proj_dim": 8}
VARIANTS = [("opt", POST_NORM), ("opt", {"word_embed_proj_dim": 8, "_remove_final_layer_norm": True})]


@pytest.fixture(params=[*((name, {}) for name in ROLES), *VARIANTS], ids=str)
def adapted(request, network):
    family, changes = request.param
    return adapt(network(family, **changes))


def test_linears_are_those_of_the_layers_in_forward_order(family, head, network):
    names = [info.name for info in adapt(network(family, head)).linears]
    assert names == [f"layers.{layer}.{role}" for layer in range(2) for role in ROLES[family]]


def test_projections_of_opt_are_linears(network):
    names = [info.name for info in adapt(network("opt", **POST_NORM)).linears]
    assert (names[0], names[-1]) == ("embeddings.projection", "final_projection")


def test_every_linear_layer_with_a_weight_site_is_listed_and_no_other(adapted):
    modules = dict(adapted.module.named_modules())
    weighted = {s.module for s in adapted.sites.weights() if isinstance(modules[s.module], nn.Linear | Conv1D)}
    assert {info.module for info in adapted.linears} == weighted
    for info in adapted.linears:
        assert adapted.sites[info.weight].module == info.module
        if info.output is not None:
            assert adapted.sites[info.output].module == info.module and adapted.sites[info.output].kind == "output"


def test_what_a_linear_layer_takes_is_what_flows_at_its_input_site(adapted, tokens):
    taken = {}
    for info in adapted.linears:
        module = adapted.module.get_submodule(info.module)
        module.register_forward_pre_hook(lambda _, args, name=info.name: taken.update({name: args[0]}))
    with torch.no_grad(), capture(adapted.module, adapted.sites.activations()) as at:
        adapted.module(**tokens())
    for info in adapted.linears:
        if (site := adapted.sites[info.input]).kind == "weight":
            expected = adapted.module.get_submodule(site.module).weight[tokens()["input_ids"]]
        else:
            expected = at[info.input]
        assert torch.equal(taken[info.name], expected), info


def test_operands_of_attention_are_what_flows_at_their_sites(adapted, tokens):
    taken = {}
    for info in adapted.attention:
        for part in ("query", "key"):
            tap = getattr(parts_of(adapted, info), part)
            tap.register_forward_hook(lambda _, __, out, key=(info.module, part): taken.update({key: out}))
    with torch.no_grad(), capture(adapted.module, adapted.sites.activations()) as at:
        adapted.module(**tokens())
    for info in adapted.attention:
        if "rotated" not in info.query:
            factors = (("query", at[info.query], info.query_factor), ("key", at[info.key], 1.0))
            for index, (part, values, factor) in enumerate(factors):
                # GPT-2: queries, keys and values side by side in one site
                values = values[..., index * info.width :][..., : info.width] if info.query == info.key else values
                assert torch.equal(by_head(values * factor, info.head_dim), taken[info.module, part])
        values = at[info.value][..., -info.width :] if info.query == info.key else at[info.value]
        values = by_head(values, info.head_dim)
        values = values.repeat_interleave(info.heads // values.shape[1], dim=1)
        context = (at[info.probs] @ values).transpose(1, 2).flatten(2)
        torch.testing.assert_close(context, at[info.context])
        assert at[info.scores].shape == at[info.probs].shape


def by_head(values, head_dim):
    return values.unflatten(-1, (-1, head_dim)).transpose(1, 2)


def test_a_linear_layer_names_its_weight_site():
    assert LinearInfo("layers.3.up", "m", 3, "layers.3.ffn_norm", "layers.3.up").weight == "layers.3.up_weight"
