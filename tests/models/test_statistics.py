"""Outlier statistics: the paper's summary per family, rows without padding, plain data."""

from __future__ import annotations

import json

import pytest
import torch

from qexp.conf.errors import UserError
from qexp.models.adapt import adapt
from qexp.models.capture import capture
from qexp.models.statistics import measure_outliers

INF_NORM = {**dict.fromkeys(("bert", "roberta", "ernie"), ["ffn_output"])}
INF_NORM |= dict.fromkeys(("gpt2", "opt", "llama"), ["ffn_residual"])
TRACKED_TENSORS = {**dict.fromkeys(("bert", "roberta", "ernie"), 4), **dict.fromkeys(("gpt2", "opt", "llama"), 11)}
"""Of 2 layers: BERT 2 a layer (24 of 12 layers in the paper), OPT 5 a layer and the final LayerNorm (61 of 12)."""


def kurtosis(row):
    row = row.double()
    return ((row - row.mean()) ** 4).mean() / (row.std() ** 4 + 1e-6)


def test_summary_follows_the_paper(family, network, tokens):
    adapted = adapt(network(family))
    report = measure_outliers(adapted, [tokens(), tokens(seed=1)])
    assert json.loads(json.dumps(report)) == report
    assert list(report["sites"]) == [site.name for site in adapted.sites.activations()]
    summary, sites = report["summary"], report["sites"]
    assert summary["inf_norm_roles"] == INF_NORM[family]
    norms = [site["inf_norm"] for site in sites.values() if site["role"] in INF_NORM[family]]
    assert len(norms) == 2 and summary["max_inf_norm"] == max(norms)
    tracked = [site["kurtosis"] for site in sites.values() if site["role"] in summary["kurtosis_roles"]]
    assert len(tracked) == TRACKED_TENSORS[family]
    assert summary["avg_kurtosis"] == pytest.approx(sum(tracked) / len(tracked))
    assert summary["max_kurtosis"] == max(tracked)


@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_rows_are_real_tokens_only(family, padding, network, tokens):
    adapted, inputs = adapt(network(family)), tokens(padding=padding)
    report = measure_outliers(adapted, [inputs])["sites"]
    with torch.no_grad(), capture(adapted.module, adapted.sites.activations()) as at:
        adapted.module(**inputs)
    kept = inputs["attention_mask"].bool()
    for name in ("layers.0.context", "layers.1.ffn_residual", "layers.1.ffn_output"):
        row_ndim = adapted.sites[name].row_ndim
        rows = [at[name][row, kept[row]] for row in range(len(kept))]
        rows = [token for row in rows for token in row] if row_ndim == 1 else rows
        norm = torch.stack([row.abs().max() for row in rows]).mean().item()
        assert report[name]["inf_norm"] == pytest.approx(norm, rel=1e-5)
        assert report[name]["kurtosis"] == pytest.approx(sum(map(kurtosis, rows)).item() / len(rows), rel=1e-4)
        expected = torch.cat([row.reshape(-1, 16) for row in rows]).abs().amax(0)
        assert report[name]["per_dim_max"] == pytest.approx(expected.tolist(), rel=1e-6)


@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_scores_leave_out_pairs_with_padding(padding, network, tokens):
    adapted, inputs = adapt(network("llama")), tokens(padding=padding)
    report = measure_outliers(adapted, [inputs, tokens(length=6)])["sites"]
    with torch.no_grad(), capture(adapted.module, adapted.sites.activations()) as at:
        adapted.module(**inputs)
        rows, keys = list(at["layers.0.attention_scores"]), at["layers.0.key_rotated"]
        adapted.module(**tokens(length=6))
        rows += list(at["layers.0.attention_scores"])
    kept = [*inputs["attention_mask"].bool(), *torch.ones(3, 6, dtype=torch.bool)]
    expected = [row[:, mask][:, :, mask].abs().max() for row, mask in zip(rows, kept, strict=True)]
    found = report["layers.0.attention_scores"]
    assert found["inf_norm"] == pytest.approx(torch.stack(expected).mean().item(), rel=1e-5)
    assert len(found["per_dim_max"]) == 4  # heads, whatever the length
    assert len(report["layers.0.key_rotated"]["per_dim_max"]) == keys.shape[1] * keys.shape[3]


def test_model_and_its_mode_stay_as_they_were(network, tokens, output_of):
    adapted = adapt(network("gpt2", resid_pdrop=0.5))
    expected, steps = output_of(adapted.module, tokens()), []
    adapted.module.train()
    first = measure_outliers(adapted, [tokens()] * 2, progress=steps.append)
    assert adapted.module.training and steps == [1, 2]
    assert measure_outliers(adapted, [tokens()] * 2) == first
    assert torch.equal(output_of(adapted.module.eval(), tokens()), expected)
    assert not any(module._forward_hooks for name, module in adapted.module.named_modules() if "qexp" in name)


def test_no_batches_are_refused(network):
    with pytest.raises(UserError, match="no batches"):
        measure_outliers(adapt(network("bert")), [])
