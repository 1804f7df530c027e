"""Outlier statistics of every activation site, as the released code of arXiv 2306.12929 measures them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from qexp.conf.errors import UserError
from qexp.kernels.statistics import TensorStatistics
from qexp.models.quantization import run_body
from qexp.models.sites import AdaptedModel, Site

Progress = Callable[[int], None]
"""Called with the number of batches done."""
_TOKEN_PAIRS = 3
"""``row_ndim`` of sites that hold a number for every pair of tokens."""

DEFINITION = (
    "rows are sequences without their padding (tokens at sites of row_ndim 1); inf_norm = mean over rows of max |x|; "
    "kurtosis = mean over rows of mean((x - mean)^4) / (std^4 + 1e-6), std with Bessel's correction; max_inf_norm = "
    "max over sites of inf_norm_roles; avg_kurtosis, max_kurtosis over sites of kurtosis_roles (arXiv 2306.12929)"
)


@torch.no_grad()
def measure_outliers(
    model: AdaptedModel, batches: Iterable[Mapping[str, Tensor]], progress: Progress | None = None
) -> dict[str, Any]:
    """Statistics of each activation site over ``batches``, and the paper's three summary figures; all JSON-able.

    A row is one sequence (or one token, ``Site.row_ndim``): infinity norm and kurtosis are computed per row and
    averaged over rows. Padded tokens (``attention_mask`` 0) are no part of a row; scores and probabilities leave out
    every pair with one. ``max_inf_norm`` is the largest infinity norm among the family's ``infinity_norm_roles``;
    ``avg_kurtosis`` and ``max_kurtosis`` are over its ``kurtosis_roles``, with the paper's epsilon. For GPT-2 and Llama
    these are OPT's: the residual stream after each layer; and LayerNorms, attention output, FFN output, stream, final
    LayerNorm.
    No batches is a ``UserError``.
    """
    sites = model.sites.activations()
    found = {site.name: TensorStatistics(site.row_ndim) for site in sites}
    masks: dict[str, Tensor | None] = {}
    hooks = [_watch(model, site, found[site.name], masks) for site in sites]
    training, seen = model.module.training, 0
    model.module.eval()
    try:
        for batch in batches:
            masks["tokens"] = _padding(batch, next(model.module.parameters()).device)
            run_body(model.module, batch)
            seen += 1
            if progress is not None:
                progress(seen)
    finally:
        for hook in hooks:
            hook.remove()
        model.module.train(training)
    if not seen:
        raise UserError("no batches to measure outliers on: raise eval.outlier_batches or the amount of data")
    return _report(model, found)


def _padding(batch: Mapping[str, Tensor], device: torch.device) -> Tensor | None:
    """Which tokens are real [B, T]; None where all are."""
    mask = batch.get("attention_mask")
    return None if mask is None or bool(mask.all()) else mask.to(device, torch.bool)


def _watch(
    model: AdaptedModel, site: Site, statistics: TensorStatistics, masks: Mapping[str, Tensor | None]
) -> RemovableHandle:
    """Feed what flows at ``site`` into ``statistics`` at once: keeping it would cost the memory of a whole network."""
    target = model.module.get_submodule(site.module)

    def record(x: Tensor) -> None:
        mask = masks["tokens"]
        if mask is not None and site.row_ndim == _TOKEN_PAIRS:
            mask = mask[:, :, None] & mask[:, None, :]
        statistics.update(_tokens_first(site, x), mask)

    if site.kind == "input":
        return target.register_forward_pre_hook(lambda _, args: record(args[0]))
    return target.register_forward_hook(lambda _, __, output: record(output))


def _tokens_first(site: Site, x: Tensor) -> Tensor:
    """[B, T, d] as it is, logits [B, C] as one, [B, H, T, d] as [B, T, H * d], pairs [B, H, T, T] as [B, T, T, H].

    The last axis, whose outlier dimensions are reported, is so never as long as the sequence.
    """
    if x.ndim <= 3:
        return x if x.ndim == 3 else x.unsqueeze(1)
    return x.permute(0, 2, 3, 1) if site.row_ndim == _TOKEN_PAIRS else x.transpose(1, 2).flatten(2)


def _report(model: AdaptedModel, found: Mapping[str, TensorStatistics]) -> dict[str, Any]:
    sites: dict[str, dict[str, Any]] = {}
    for name, statistics in found.items():
        about = {"role": model.sites[name].role, "layer": model.sites[name].layer}
        sites[name] = {**statistics.result(), **about, "per_dim_max": statistics.per_dim_max.tolist()}
    norms = [sites[site.name]["inf_norm"] for site in model.sites.with_role(*model.infinity_norm_roles)]
    tails = [sites[site.name]["kurtosis"] for site in model.sites.activations() if site.role in model.kurtosis_roles]
    summary = {
        "max_inf_norm": max(norms),
        "avg_kurtosis": sum(tails) / len(tails),
        "max_kurtosis": max(tails),
        "inf_norm_roles": list(model.infinity_norm_roles),
        "kurtosis_roles": list(model.kurtosis_roles),
        "definition": DEFINITION,
    }
    return {"summary": summary, "sites": sites}
