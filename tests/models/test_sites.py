"""Every quantizer site of every family against a list written by hand.

BERT and OPT: from the paper notes, section 1.5 ("What is quantized", in forward order). GPT-2 and Llama: OPT's order
with the differences that their adapters document.
"""

from __future__ import annotations

import pytest
import torch

from qexp.models.adapt import adapt
from qexp.models.capture import capture
from qexp.models.quantization import describe_sites
from qexp.models.sites import Site, SiteMap

BERT = ["embeddings.token_weight", "embeddings.type_weight", "embeddings.token_type_sum"]
BERT += ["embeddings.position_weight", "embeddings.sum", "embeddings.norm_weight", "embeddings.norm"]
BERT_LAYER = """
    query_weight query key_weight key value_weight value attention_scores attention_probs context
    attention_output_weight attention_output attention_residual attention_norm_weight attention_norm
    ffn_hidden_weight ffn_hidden ffn_output_weight ffn_output ffn_residual ffn_norm_weight ffn_norm
""".split()
OPT = ["embeddings.token_weight", "embeddings.position_weight", "embeddings.sum"]
OPT_LAYER = """
    attention_norm_weight attention_norm query_weight query key_weight key value_weight value
    attention_scores attention_probs context attention_output_weight attention_output attention_residual
    ffn_norm_weight ffn_norm ffn_hidden_weight ffn_hidden ffn_output_weight ffn_output ffn_residual
""".split()
POST_NORM_OPT_LAYER = """
    query_weight query key_weight key value_weight value
    attention_scores attention_probs context attention_output_weight attention_output attention_residual
    attention_norm_weight attention_norm
    ffn_hidden_weight ffn_hidden ffn_output_weight ffn_output ffn_residual ffn_norm_weight ffn_norm
""".split()
GPT2_LAYER = """
    attention_norm_weight attention_norm qkv_weight qkv
    attention_scores attention_probs context attention_output_weight attention_output attention_residual
    ffn_norm_weight ffn_norm ffn_hidden_weight ffn_hidden ffn_output_weight ffn_output ffn_residual
""".split()
LLAMA_LAYER = """
    attention_norm_weight attention_norm query_weight query key_weight key value_weight value
    query_rotated key_rotated attention_scores attention_probs context
    attention_output_weight attention_output attention_residual
    ffn_norm_weight ffn_norm gate_activation_weight gate_activation up_weight up ffn_hidden
    ffn_output_weight ffn_output ffn_residual
""".split()
FINAL = ["final_norm_weight", "final_norm"]
ERNIE = BERT[:4] + ["embeddings.task_weight"] + BERT[4:]


def layers(roles, count=2):
    return [f"layers.{layer}.{role}" for layer in range(count) for role in roles]


EXPECTED = {
    "bert": BERT + layers(BERT_LAYER),
    "roberta": BERT + layers(BERT_LAYER),
    "ernie": ERNIE + layers(BERT_LAYER),
    "gpt2": OPT + layers(GPT2_LAYER) + FINAL,
    "opt": OPT + layers(OPT_LAYER) + FINAL,
    "llama": OPT[:1] + layers(LLAMA_LAYER) + FINAL,
}


def test_sites_are_the_papers_for_every_head(family, head, network):
    assert [site.name for site in adapt(network(family, head)).sites] == EXPECTED[family]


def test_post_norm_opt_with_projections(network, tokens, output_of):
    model = network("opt", do_layer_norm_before=False, word_embed_proj_dim=8)
    expected = output_of(model, tokens())
    adapted = adapt(model)
    names = ["embeddings.token_weight", "embeddings.projection_weight", "embeddings.projection", *OPT[1:]]
    names += layers(POST_NORM_OPT_LAYER) + ["final_projection_weight", "final_projection"]
    assert [site.name for site in adapted.sites] == names
    assert adapted.infinity_norm_roles == ("ffn_norm",)
    torch.testing.assert_close(output_of(model, tokens()), expected, atol=1e-5, rtol=0.0)


def test_the_head_has_no_site(family, head, network):
    model = network(family, head)
    below = "" if head == "base" else f"{model.base_model_prefix}."
    assert all(site.module.startswith(below) and "pooler" not in site.module for site in adapt(model).sites)


def test_activation_sites_are_met_in_order(family, network, tokens):
    adapted, met = adapt(network(family)), []
    for site in adapted.sites.activations():
        module = adapted.module.get_submodule(site.module)
        if site.kind == "input":
            module.register_forward_pre_hook(lambda *_, name=site.name: met.append(name))
        else:
            module.register_forward_hook(lambda *_, name=site.name: met.append(name))
    with torch.no_grad():
        adapted.module(**tokens())
    assert met == [site.name for site in adapted.sites.activations()]


def test_sums_are_sums(family, network, tokens):
    """What flows at each sum site is the sum of what flows at its addends: the stream itself, not a norm of it."""
    adapted = adapt(network(family))
    with torch.no_grad(), capture(adapted.module, adapted.sites.activations()) as at:
        adapted.module(**tokens())
    stream = at.get("embeddings.norm", at.get("embeddings.sum"))
    post_norm = "embeddings.norm" in at
    for layer in ("layers.0", "layers.1"):
        if stream is not None:
            torch.testing.assert_close(at[f"{layer}.attention_residual"], stream + at[f"{layer}.attention_output"])
        middle = at[f"{layer}.attention_norm" if post_norm else f"{layer}.attention_residual"]
        torch.testing.assert_close(at[f"{layer}.ffn_residual"], middle + at[f"{layer}.ffn_output"])
        stream = at[f"{layer}.ffn_norm" if post_norm else f"{layer}.ffn_residual"]


def test_scores_are_unmasked_and_scaled_and_probs_masked(decoder, network, tokens):
    adapted = adapt(network(decoder))
    with torch.no_grad(), capture(adapted.module, adapted.sites.activations()) as at:
        adapted.module(**tokens())
    scores, probs = at["layers.0.attention_scores"], at["layers.0.attention_probs"]
    assert scores.abs().max() < 1e4 and scores.triu(1).abs().max() > 0
    assert torch.equal(probs.triu(1), torch.zeros_like(probs))
    torch.testing.assert_close(probs.sum(-1), torch.ones_like(probs[..., 0]))


def test_rows_of_opts_ffn_are_tokens(network):
    by_role = {site.role: site.row_ndim for site in adapt(network("opt")).sites}
    assert [role for role, rows in by_role.items() if rows == 1] == ["ffn_norm", "ffn_hidden", "ffn_output"]
    for family in ("gpt2", "llama", "bert"):
        assert all(site.row_ndim > 1 for site in adapt(network(family)).sites)


def test_conv1d_has_its_channels_last(network):
    axes = {site.role: site.channel_axis for site in adapt(network("gpt2")).sites.weights()}
    conv1d = {"qkv_weight", "attention_output_weight", "ffn_hidden_weight", "ffn_output_weight"}
    assert {role for role, axis in axes.items() if axis == 1} == conv1d


def test_a_norm_without_gain_has_no_weight_site(network):
    roles = adapt(network("opt", layer_norm_elementwise_affine=False)).sites.roles
    assert "ffn_norm" in roles and not any(role.endswith("norm_weight") for role in roles)


def test_description_is_plain_data(network):
    rows = describe_sites(adapt(network("gpt2")))
    assert list(rows[0]) == ["name", "role", "kind", "layer", "module", "shape", "carries"]
    row = next(row for row in rows if row["name"] == "layers.1.qkv_weight")
    assert (row["layer"], row["shape"], row["module"]) == (1, [16, 48], "transformer.h.1.attn.c_attn")


def test_two_sites_of_one_name_are_refused():
    site = Site("a", "a", "output", "", "")
    with pytest.raises(ValueError, match="share a name"):
        SiteMap([site, site])
