"""Put quantizers at the sites of a network, find their ranges, and give back a network that simulates integers.

As in arXiv 2306.12929: weight ranges come from the weights; activation ranges are estimated while every
quantizer is already on, so that each layer sees the quantized inputs it will see later; then all ranges are fixed.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from qexp.conf.errors import UserError
from qexp.conf.schema import QuantConfig, QuantizerConfig
from qexp.kernels.quantize import QParams
from qexp.kernels.quantizers import Granularity, Quantizer
from qexp.kernels.ranges import make_estimator
from qexp.models.attachment import WEIGHT, attach, naming
from qexp.models.sites import AdaptedModel, Site, SiteMap

Batch = Mapping[str, Tensor]
FLOAT_BITS = 32
_PAIRWISE = ("attention_scores", "attention_probs")
"""Their last axis is the sequence, whose length varies: it has no channels."""


def parse_bits(name: str) -> tuple[int, int]:
    """``"w8a6"`` -> (8, 6), bits of weights and of activations: 2 to 16, or 32 for floating point."""
    match = re.fullmatch(r"w(\d+)a(\d+)", name)
    widths = tuple(int(width) for width in match.groups()) if match else ()
    if len(widths) != 2 or any(width != FLOAT_BITS and not 2 <= width <= 16 for width in widths):
        raise UserError(f"bits {name!r} should look like w8a8, each width 2 to 16, or 32 for floating point")
    return widths[0], widths[1]


def describe_sites(model: AdaptedModel) -> list[dict[str, Any]]:
    """Every site as plain data, in forward order: what ``qexp show --sites`` prints."""
    rows = []
    for site in model.sites:
        shape = list(_weight_of(model.module, site).shape) if site.kind == "weight" else None
        rows.append(
            {
                **{"name": site.name, "role": site.role, "kind": site.kind, "layer": site.layer},
                **{"module": site.module, "shape": shape, "carries": site.carries},
            }
        )
    return rows


def choose_sites(sites: SiteMap, spec: QuantConfig) -> tuple[Site, ...]:
    """The sites of ``spec.roles`` without ``spec.exclude``. An unknown role is a ``UserError`` with the nearest."""
    for role in (*spec.roles, *spec.exclude):
        if role != "all" and role not in sites.roles:
            nearest = difflib.get_close_matches(role, sites.roles, n=3, cutoff=0.4)
            offer = f"did you mean {', '.join(nearest)}?" if nearest else "`qexp show --sites` lists them"
            raise UserError(f"unknown site role {role!r}; {offer}")
    wanted = sites.roles if "all" in spec.roles else spec.roles
    unwanted = sites.roles if "all" in spec.exclude else spec.exclude
    return tuple(site for site in sites if site.role in wanted and site.role not in unwanted)


def place_quantizers(module: nn.Module, sites: SiteMap, spec: QuantConfig, bits: str) -> dict[str, Quantizer]:
    """Attach a quantizer, switched off, to every chosen site of ``module`` in place; site name -> quantizer.

    Weights become parametrizations: live, differentiable, and their own tensor, so that a tied ``lm_head`` keeps
    reading the float weight. Activations get a hook and a submodule beside the module that makes or takes them.
    """
    weight_bits, activation_bits = parse_bits(bits)
    placed = {}
    for site in choose_sites(sites, spec):
        is_weight = site.kind == "weight"
        width, config = (weight_bits, spec.weights) if is_weight else (activation_bits, spec.activations)
        if width == FLOAT_BITS:
            continue
        granularity, axis = weight_granularity(module, site, config)
        placed[site.name] = quantizer = _make(config, width, granularity, axis)
        attach(module, site, quantizer)
    return placed


def quantize_model(
    model: AdaptedModel,
    spec: QuantConfig,
    bits: str,
    batches: Iterable[Batch],
    ranges: Mapping[str, QParams] | None = None,
) -> nn.Module:
    """A copy of the network in which every chosen site lies on its ``bits`` grid, in evaluation mode.

    ``batches`` are calibration inputs (padding positions count, as in the released code). ``ranges`` are grids that are
    known already, by the names of their sites: the others are estimated. ``spec.weight_step_ratio`` applies to weights'
    of either kind. ``model`` stays as it is. No batches, or a NaN or infinity at a site, is a ``UserError``.
    """
    network = copy.deepcopy(model.module).eval()
    quantizers = place_quantizers(network, model.sites, spec, bits)
    for name, params in (ranges or {}).items():
        if name in quantizers:
            quantizers[name].fix(params)
    for name, quantizer in quantizers.items():
        if (site := model.sites[name]).kind == "weight":
            _bake_weight(network, site, quantizer, spec.weight_step_ratio)
    activations = {n: q for n, q in quantizers.items() if model.sites[n].kind != "weight" and q.mode != "quantize"}
    calibrate(network, activations, batches)
    return network


@torch.no_grad()
def calibrate(network: nn.Module, quantizers: Mapping[str, Quantizer], batches: Iterable[Batch]) -> None:
    """Estimate the ranges of ``quantizers`` on ``batches``, all of them on meanwhile, then fix them."""
    for quantizer in quantizers.values():
        quantizer.mode = "estimate"
    static = any(quantizer.estimator is not None for quantizer in quantizers.values())
    seen = 0
    for batch in batches if static else ():
        run_body(network, batch)
        seen += 1
    if static and not seen:
        raise UserError("no calibration batches: raise quant.calibration.batches or the amount of training data")
    for name, quantizer in quantizers.items():
        with naming(name):
            quantizer.freeze()


def run_body(network: Any, batch: Batch) -> None:
    """Forward pass for calibration and statistics: without the head, where that has no sites (all but ViT's)."""
    device = next(network.parameters()).device
    inputs = {key: value.to(device) for key, value in batch.items() if key != "labels"}
    if network.main_input_name == "pixel_values":
        network(**inputs)
    else:
        network.base_model(**inputs, use_cache=False)


def weight_granularity(module: nn.Module, site: Site, config: QuantizerConfig) -> tuple[Granularity, int | None]:
    """Granularity and channel axis of a site; where channels mean nothing, per tensor.

    Those are LayerNorm gains (one number a channel), embedding tables (their rows are tokens, not output channels) and
    attention scores and probabilities (as wide as the sequence is long).
    """
    if config.granularity == "per_token" and site.kind == "weight":
        raise UserError("weights cannot be quantized per_token; use per_tensor or per_channel")
    if config.granularity != "per_channel":
        return config.granularity, None
    if site.kind != "weight":
        return ("per_tensor", None) if site.role in _PAIRWISE else ("per_channel", -1)
    target = module.get_submodule(site.module)
    if isinstance(target, nn.Embedding) or _weight_of(module, site).ndim < 2:
        return "per_tensor", None
    return "per_channel", site.channel_axis


def _make(config: QuantizerConfig, bits: int, granularity: Granularity, axis: int | None) -> Quantizer:
    estimator = None
    if granularity != "per_token":
        estimator = make_estimator(
            config.range,
            bits=bits,
            symmetric=config.symmetric,
            channel_axis=axis,
            momentum=config.momentum,
            percentile=config.percentile,
        )
    return Quantizer(bits, config.symmetric, estimator, granularity)


def _weight_of(module: nn.Module, site: Site) -> Tensor:
    weight: Any = module.get_submodule(site.module).weight
    return weight  # type: ignore[no-any-return]  # nn.Module.__getattr__ is typed as Tensor | Module


@torch.no_grad()
def _bake_weight(network: nn.Module, site: Site, quantizer: Quantizer, step_ratio: float) -> None:
    """Fix the range of a weight and store the quantized numbers once, as a parameter of this module alone."""
    target = network.get_submodule(site.module)
    if quantizer.mode != "quantize":
        quantizer.mode = "estimate"
        with naming(site.name):
            _weight_of(network, site)
            quantizer.freeze()
    quantizer.fix(replace(quantizer.qparams, scale=quantizer.qparams.scale * step_ratio))
    baked = _weight_of(network, site).detach().clone()
    # Removing with leave_parametrized=True would write into the float tensor that a tied lm_head still uses.
    parametrize.remove_parametrizations(target, "weight", leave_parametrized=False)
    target.register_parameter("weight", nn.Parameter(baked, requires_grad=False))
    target.add_module(WEIGHT, quantizer)
