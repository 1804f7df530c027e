"""Which weights a kurtosis penalty acts on: their kurtosis by site, the rules that choose, and what is told of it.

In a pretrained network a few tensors have a kurtosis orders of magnitude above all others, and squared deviations
make the penalty theirs alone. So those are left out (idea: arXiv 2106.13035).
"""

from __future__ import annotations

import difflib
import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from qexp.conf.errors import UserError
from qexp.kernels.kurtosis import UNIFORM, kurtosis
from qexp.models.sites import AdaptedModel, Site

Rule = Literal["all", "list", "three_sigma", "repeated_three_sigma", "threshold"]
Kurtoses = Mapping[str, float | None]
"""Site name -> K, None for a constant tensor, which has none."""
Selection = tuple[tuple[str, ...], tuple[str, ...]]
"""Names of the tensors that the penalty acts on, and of those left out, each in forward order."""
SIGMAS = 3.0


def candidates(model: AdaptedModel) -> tuple[Site, ...]:
    """The weight sites that hold a matrix, an embedding table included: no LayerNorm gains, in forward order."""
    return tuple(site for site in model.sites.weights() if latent_weight(model, site).ndim >= 2)


def latent_weight(model: AdaptedModel, site: Site) -> Tensor:
    """The float weight at a site: what an optimizer changes, below a quantizer that stands there in training."""
    module: Any = model.module.get_submodule(site.module)
    weight: Tensor = module.weight
    if parametrize.is_parametrized(module, "weight"):
        weight = module.parametrizations.weight.original
    return weight


@torch.no_grad()
def measure(model: AdaptedModel) -> dict[str, float | None]:
    """K of each candidate (``kernels.kurtosis.kurtosis``, std unbiased), None for a constant one, by site name."""
    found: dict[str, float | None] = {}
    for site in candidates(model):
        try:
            found[site.name] = float(kurtosis(latent_weight(model, site)))
        except ValueError:
            found[site.name] = None
    return found


def select(kurtoses: Kurtoses, rule: Rule, *, names: Sequence[str] = (), threshold: float | None = None) -> Selection:
    """Kept and dropped names; constant tensors are always dropped.

    ``all`` keeps every tensor; ``list`` those called ``names`` (a name or a pattern such as ``*.query_weight``);
    ``threshold`` those with K up to it; ``three_sigma`` those within mean +- 3 standard deviations (unbiased) of all K,
    a rule that the author of arXiv 2106.13035 proposed in public; ``repeated_three_sigma`` applies it to those it kept
    until it keeps them all, since one extreme tensor hides the next behind its own share of the deviation.

    Raises:
        UserError: for an unknown rule or name, a missing threshold, a 3-sigma rule that cannot drop any of so few
            tensors, and where nothing is kept.
    """
    known = {name: k for name, k in kurtoses.items() if k is not None}
    if rule == "all":
        kept: Collection[str] = known
    elif rule == "list":
        kept = _listed(names, list(kurtoses)) & known.keys()
    elif rule == "threshold":
        kept = _up_to(known, threshold)
    elif rule in ("three_sigma", "repeated_three_sigma"):
        kept = _within_sigmas(known, repeated=rule == "repeated_three_sigma")
    else:
        raise UserError(f"unknown rule {rule!r} for a kurtosis penalty: {', '.join(get_args(Rule))}")
    if not kept:
        least = f"; the smallest kurtosis is {min(known.values()):.3g}" if known else ", all constant"
        raise UserError(f"rule {rule} leaves none of {len(kurtoses)} tensors for the kurtosis penalty{least}")
    return tuple(n for n in kurtoses if n in kept), tuple(n for n in kurtoses if n not in kept)


def describe(kurtoses: Kurtoses, kept: Collection[str], target: float = UNIFORM) -> dict[str, dict[str, Any]]:
    """Per tensor, as plain data: ``kurtosis``, whether it is ``selected``, and its ``share`` of the squared penalty.

    The share is of sum (K - target)^2 over all tensors, so what it would be were none left out; 0 for a constant one.
    """
    squares = {name: 0.0 if k is None else (k - target) ** 2 for name, k in kurtoses.items()}
    total = math.fsum(squares.values()) or 1.0
    return {
        name: {"kurtosis": k, "share": squares[name] / total, "selected": name in kept} for name, k in kurtoses.items()
    }


def _listed(names: Sequence[str], known: Sequence[str]) -> set[str]:
    kept: set[str] = set()
    for wanted in names:
        found = {name for name in known if fnmatchcase(name, wanted)}
        if not found:
            nearest = difflib.get_close_matches(wanted, known, n=3, cutoff=0.4)
            offer = f"did you mean {', '.join(nearest)}?" if nearest else "`qexp show --sites` lists them"
            raise UserError(f"no weight matrix or embedding is called {wanted!r}; {offer}")
        kept |= found
    return kept


def _up_to(known: Mapping[str, float], threshold: float | None) -> set[str]:
    if threshold is None:
        raise UserError("rule threshold needs a threshold: the largest kurtosis that the penalty acts on")
    return {name for name, k in known.items() if k <= threshold}


def _within_sigmas(known: Mapping[str, float], *, repeated: bool) -> dict[str, float]:
    if (len(known) - 1) < SIGMAS * math.sqrt(len(known)):
        raise UserError(
            f"a 3-sigma rule cannot leave out any of {len(known)} tensors, since none of up to 10 values lies 3 "
            "standard deviations off their mean; use rule threshold"
        )
    kept = dict(known)
    while len(kept) > 1:
        mean, spread = statistics.mean(kept.values()), SIGMAS * statistics.stdev(kept.values())
        inside = {name: k for name, k in kept.items() if abs(k - mean) <= spread}
        if not repeated or len(inside) == len(kept):
            return inside
        kept = inside
    return kept
