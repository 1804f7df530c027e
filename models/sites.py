"""Sites: the named places of a network where a tensor can be quantized, measured or regularised."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from torch import nn

SiteKind = Literal["weight", "input", "output"]


@dataclass(frozen=True)
class Site:
    """One place. ``module`` is a dotted path, so that a site stays valid on a deep copy of the network.

    ``kind``: ``weight`` (the module's ``weight`` parameter), ``output`` (what the module returns) or ``input`` (its
    first positional argument).
    """

    name: str
    """Unique, by role: ``layers.3.ffn_output``, ``embeddings.token_weight``."""
    role: str
    """The name without its layer: ``ffn_output``. Quantizer settings and plots choose by role."""
    kind: SiteKind
    module: str
    carries: str
    """What flows here, in words, for ``qexp show --sites``."""
    layer: int | None = None
    row_ndim: int = 2
    """Trailing dimensions of one row of the paper's outlier statistics: 2 = a sequence [T, d], 1 = a token [d]."""
    channel_axis: int = 0
    """Weights only: the axis of output channels (0 in ``nn.Linear``, 1 in GPT-2's ``Conv1D``)."""


class SiteMap:
    """The sites of one network in the order in which a forward pass meets them."""

    def __init__(self, sites: Iterable[Site]):
        listed = tuple(sites)
        self._sites = {site.name: site for site in listed}
        if len(self._sites) != len(listed):
            names = [site.name for site in listed]
            raise ValueError(f"two sites share a name: {sorted({n for n in names if names.count(n) > 1})}")

    def __iter__(self) -> Iterator[Site]:
        return iter(self._sites.values())

    def __len__(self) -> int:
        return len(self._sites)

    def __contains__(self, name: str) -> bool:
        return name in self._sites

    def __getitem__(self, name: str) -> Site:
        return self._sites[name]

    def discard(self, names: Iterable[str]) -> None:
        """Forget sites that a change of the network did away with."""
        for name in tuple(names):
            self._sites.pop(name, None)

    def with_role(self, *roles: str) -> tuple[Site, ...]:
        """Sites of the given roles, in forward order."""
        return tuple(site for site in self if site.role in roles)

    def weights(self) -> tuple[Site, ...]:
        return tuple(site for site in self if site.kind == "weight")

    def activations(self) -> tuple[Site, ...]:
        return tuple(site for site in self if site.kind != "weight")

    @property
    def roles(self) -> tuple[str, ...]:
        """All roles, in forward order of first appearance."""
        return tuple(dict.fromkeys(site.role for site in self))


@dataclass(frozen=True)
class LinearInfo:
    """One linear layer of the body (``nn.Linear`` or ``Conv1D``). ``module`` is a dotted path."""

    name: str
    """By role, as its sites: ``layers.3.ffn_output``."""
    module: str
    layer: int | None
    input: str
    """The site on whose grid its input lies; an embedding table's weight site where it reads the table's rows."""
    output: str | None
    """The site of its own output; None where that is quantized later only (after a fused activation function)."""
    shared: bool = True
    """False where linear layers (and, of attention inputs, a gate) are all that reads the input."""

    @property
    def weight(self) -> str:
        """The site of its weight."""
        return f"{self.name}_weight"


@dataclass(frozen=True)
class AttentionInfo:
    """One self-attention module. ``module`` is a dotted path; query, key and value name the operands' sites."""

    module: str
    layer: int
    heads: int
    head_dim: int
    width: int
    """Size of the attention module's input (d_model)."""
    query: str
    key: str
    value: str
    query_factor: float = 1.0
    """What the query is multiplied with between its site and the score product."""

    @property
    def scores(self) -> str:
        """The site of the scores."""
        return f"layers.{self.layer}.attention_scores"

    @property
    def probs(self) -> str:
        """The site of the probabilities."""
        return f"layers.{self.layer}.attention_probs"

    @property
    def context(self) -> str:
        """The site of the probability-weighted values."""
        return f"layers.{self.layer}.context"


@dataclass(frozen=True)
class AdaptedModel:
    """A Hugging Face network whose sites are known and whose attention is qexp's (``qexp.models.adapt.adapt``)."""

    module: nn.Module
    family: str
    sites: SiteMap
    attention: tuple[AttentionInfo, ...]
    linears: tuple[LinearInfo, ...]
    infinity_norm_roles: tuple[str, ...]
    """Roles whose largest infinity norm is the paper's "max inf norm" for this family."""
    kurtosis_roles: tuple[str, ...]
    """Roles over whose tensors the paper averages kurtosis for this family."""
