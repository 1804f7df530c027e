"""From a network with random weights to its unit-scaled form (arXiv 2303.11257), in place.

Layers are exchanged for unit-scaled ones with new unit-variance weights, attention gets its factors, residual sums
their weights, and the network the unit-scaled loss. Names and shapes of parameters stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from qexp.conf.errors import UserError
from qexp.kernels.unit_scaling.residual import TauRule
from qexp.kernels.unit_scaling.rules import Rules
from qexp.models.adapters._common import swap_class
from qexp.models.sites import AdaptedModel
from qexp.models.unit_scaled.attention import scale_attention
from qexp.models.unit_scaled.families import FAMILIES, Family
from qexp.models.unit_scaled.heads import readout
from qexp.models.unit_scaled.layers import unit_scaled
from qexp.models.unit_scaled.residual import WeightedSum

Change = tuple[str, str]
"""A module's path, and what stands there now."""


def convert(model: AdaptedModel, rules: Rules, tau: TauRule, owner: str = "unit_scaling") -> tuple[Change, ...]:
    """Make ``model`` unit-scaled in place, with fresh weights from the global generator; what was changed.

    ``tau`` is asked for each residual branch in forward order, attention and feed-forward alike. Raises ``UserError``
    that names the module: for a family not in :data:`FAMILIES`, for tied embeddings, for a layer without a unit-scaled
    form, and where another method (not ``owner``) changed the attention.
    """
    family, network, blocks = _family(model), model.module, block_paths(model.module)
    _refuse_tied(network)
    for info in model.attention:
        scale_attention(model, info, rules, owner)
    changes = [*_exchange_layers(network, blocks, rules, family)]
    for index, path in enumerate(blocks):
        sums = WeightedSum(tau(2 * index)), WeightedSum(tau(2 * index + 1))
        family.place_sums(network.get_submodule(path), *sums)
        changes.append((path, f"residual sums with tau {sums[0].tau:.3g} and {sums[1].tau:.3g}"))
    family.scale_ends(network.base_model)
    swap_class(network, family.loss)
    model.sites.discard(site.name for site in model.sites.weights() if _weight(network, site.module) is None)
    return (*changes, ("loss", "unit-scaled gradient"))


def own_tau(model: AdaptedModel) -> TauRule | None:
    """The weights of residual sums that the network's configuration asks for; None where it has plain sums."""
    return _family(model).own_tau(model.module.config)


def _family(model: AdaptedModel) -> Family:
    if model.family not in FAMILIES:
        raise UserError(f"{model.family} models have no unit-scaled form; those of {', '.join(FAMILIES)} have")
    return FAMILIES[model.family]


def block_paths(network: nn.Module) -> tuple[str, ...]:
    """The dotted path of every block, in forward order: the members of the network's list of modules."""
    name, blocks = next((n, m) for n, m in network.named_modules() if isinstance(m, nn.ModuleList))
    return tuple(f"{name}.{index}" for index in range(len(blocks)))


def _refuse_tied(network: nn.Module) -> None:
    """One weight with two uses lies on no cut-edge: its two gradients would need factors of their own."""
    owners: dict[int, str] = {}
    for name, module in network.named_modules():
        weight = module._parameters.get("weight")
        if weight is not None and (first := owners.setdefault(id(weight), name)) != name:
            raise UserError(
                f"{name} shares its weight with {first}: no one factor fits both of its gradients; "
                "untie them with model.dimensions.tie_word_embeddings=false"
            )


def _exchange_layers(network: nn.Module, blocks: tuple[str, ...], rules: Rules, family: Family) -> Iterator[Change]:
    """Exchange every layer. Outside of the blocks each edge is a cut-edge, so that layers there are unconstrained."""
    inside = tuple(f"{path}." for path in blocks)
    outer_linears = [n for n, m in network.named_modules() if isinstance(m, nn.Linear) and not n.startswith(inside)]
    head = outer_linears[-1] if outer_linears else None
    for name, layer in list(network.named_modules()):
        if name == head:
            picked = family.classifies_every_token and not _is_language_head(network, layer)
            new: nn.Module | None = readout(_as_linear(layer), rules, picked)
        else:
            new = unit_scaled(name, layer, rules if name.startswith(inside) else rules.free, family.layers)
        if new is not None:
            network.set_submodule(name, new)
            yield name, f"unit-scaled {type(new).__name__}"


def _as_linear(layer: nn.Module) -> nn.Linear:
    assert isinstance(layer, nn.Linear)
    return layer


def _is_language_head(network: Any, layer: nn.Module) -> bool:
    return network.get_output_embeddings() is layer


def _weight(network: nn.Module, path: str) -> Any:
    return getattr(network.get_submodule(path), "weight", None)
