"""Which layers of a calibrated network can multiply integers, and putting those in place that can."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn
from transformers.pytorch_utils import Conv1D

from qexp.kernels.int8.composition import codes_dtype
from qexp.kernels.quantizers import Quantizer
from qexp.models.adapters._common import base_of, swap_class
from qexp.models.attachment import attach, naming, quantizer_at, retire
from qexp.models.attention import NAME
from qexp.models.integer_layers import IntegerAttention, IntegerEmbedding, IntegerLinear, weight_codes
from qexp.models.sites import AdaptedModel, AttentionInfo, LinearInfo, Site
from qexp.models.surgery import parts_of

LARGEST_BITS = 8
Kind = Literal["linear", "attention_scores", "attention_context", "embedding"]


@dataclass(frozen=True)
class Claim:
    """One product that ``module`` executes in integers, or one table that it stores as such.

    ``input`` and ``weight`` are the types of its operands' codes, ``grids`` says in words where these lie.
    """

    name: str
    kind: Kind
    module: str
    input: str
    weight: str
    grids: str


@dataclass(frozen=True)
class InFloat:
    """A layer that stays in floating point, and why."""

    name: str
    module: str
    why: str


class Conversion:
    """Puts integer layers into ``model``'s network; what it ``claimed``, and what stays ``in_float``."""

    def __init__(self, model: AdaptedModel, backend: str):
        self.model, self.network, self.backend = model, model.module, backend
        self.claimed: list[Claim] = []
        self.in_float: list[InFloat] = []

    def convert(self) -> None:
        for site in self.model.sites.weights():
            if isinstance(self.network.get_submodule(site.module), nn.Embedding):
                self._embedding(site)
        for attention in self.model.attention:
            self._attention(attention)
        for linear in self.model.linears:
            self._linear(linear)
        self._retire_inputs()
        self._list_others()

    def _quantizer(self, site: str | None) -> Quantizer | None:
        return None if site is None else quantizer_at(self.network, self.model.sites[site])

    def _embedding(self, site: Site) -> None:
        name, table = site.name.removesuffix("_weight"), self.network.get_submodule(site.module)
        quantizer = self._quantizer(site.name)
        if (why := unfit(quantizer, "its table")) is not None:
            self.in_float.append(InFloat(name, site.module, why))
            return
        assert quantizer is not None and isinstance(table, nn.Embedding)
        with naming(site.name):
            codes = weight_codes(table.weight, quantizer.qparams)
        table.weight = nn.Parameter(codes, requires_grad=False)
        swap_class(table, IntegerEmbedding)
        self.claimed.append(Claim(name, "embedding", site.module, "int64", "int8", _words(site.name, quantizer)))

    def _linear(self, info: LinearInfo) -> None:
        if (why := self._why_not(info)) is not None:
            self.in_float.append(InFloat(info.name, info.module, why))
            return
        layer: Any = self.network.get_submodule(info.module)
        weight, feed, output = (self._quantizer(name) for name in (info.weight, info.input, info.output))
        assert weight is not None and feed is not None
        fused = {} if output is None or unfit(output, "") else {"output": output}
        with naming(info.weight):
            codes = weight_codes(layer.weight, weight.qparams)
            codes = codes.t() if isinstance(layer, Conv1D) else codes
            new = IntegerLinear(codes, layer.bias, weight, {"input": feed, **fused}, info.input, self.backend)
        self.network.set_submodule(info.module, new.eval())
        self._move_sites(info, layer, bool(fused))
        words = _words(info.input, feed), _words(info.weight, weight), *(_words(info.output, q) for q in fused.values())
        self.claimed.append(Claim(info.name, "linear", info.module, _codes(feed), "int8", "; ".join(words)))

    def _move_sites(self, info: LinearInfo, old: nn.Module, fused: bool) -> None:
        """Stand the quantizers of the old layer's own activation sites at the new one, with hooks if not built in."""
        for site in self.model.sites.activations():
            quantizer = quantizer_at(old, replace(site, module="")) if site.module == info.module else None
            if quantizer is not None:
                attach(self.network, site, quantizer)
                if fused or site.name == info.input:
                    retire(self.network, site)

    def _why_not(self, info: LinearInfo) -> str | None:
        gated = [a for a in self.model.attention if info.input == a.context and self._gate_follows(a)]
        return (
            unfit(self._quantizer(info.weight), "its weight", per_channel=True)
            or unfit(self._quantizer(info.input), f"its input {info.input}")
            or (f"a gate stands between it and its input's site {info.input}" if gated else None)
        )

    def _gate_follows(self, info: AttentionInfo) -> bool:
        parts = parts_of(self.model, info)
        return parts.gate is not None and not parts.context_after_gate

    def _attention(self, info: AttentionInfo) -> None:
        at, sites = f"layers.{info.layer}", {"query": info.query, "key": info.key, "value": info.value}
        sites |= {"probs": info.probs, "scores": info.scores}
        found = {name: q for name, site in sites.items() if (q := self._quantizer(site)) is not None}
        needed = (name for name in sites if name != "scores" or name in found)
        whys = [why for name in needed if (why := unfit(found.get(name), f"its operand {sites[name]}")) is not None]
        if whys:
            self.in_float.append(InFloat(f"{at}.attention", info.module, whys[0]))
            return
        new = IntegerAttention(found, info.query_factor, info.query, self.backend)
        parts_of(self.model, info).integer = new.eval()
        for site in {self.model.sites[name] for name in sites.values()}:
            if site.module.startswith(f"{info.module}.{NAME}."):  # a tap, which nothing else reads
                retire(self.network, site)
        for name, kind, a, b in _PRODUCTS:
            types, words = (_codes(found[a]), _codes(found[b])), (_words(sites[n], found[n]) for n in (a, b))
            self.claimed.append(Claim(f"{at}.{name}", kind, f"{info.module}.{NAME}.integer", *types, "; ".join(words)))

    def _retire_inputs(self) -> None:
        """Nothing but integer layers reads some sites, and they quantize what they read: once is enough."""
        claimed = {claim.name for claim in self.claimed if claim.kind == "linear"}
        kept = {info.input for info in self.model.linears if info.name not in claimed or self._is_shared(info)}
        for name in {info.input for info in self.model.linears} - kept:
            retire(self.network, self.model.sites[name])

    def _is_shared(self, info: LinearInfo) -> bool:
        """Whether its input is read by others too: a residual sum, or the gate of the attention that it belongs to."""
        gated = (a.module for a in self.model.attention if parts_of(self.model, a).gate is not None)
        return info.shared or any(info.module.startswith(f"{module}.") for module in gated)

    def _list_others(self) -> None:
        known = {info.module for info in self.model.linears}
        for name, module in self.network.named_modules():
            if isinstance(module, nn.Linear | Conv1D) and name not in known:
                self.in_float.append(InFloat(name, name, why_without_sites(self.model, name)))


_PRODUCTS: tuple[tuple[str, Kind, str, str], ...] = (
    ("attention_scores", "attention_scores", "query", "key"),
    ("context", "attention_context", "probs", "value"),
)
"""The products of attention: their site's role, kind, and operands."""


def unfit(quantizer: Quantizer | None, what: str, *, per_channel: bool = False) -> str | None:
    """Why ``what``, with this quantizer at its site, cannot be an operand in integers; None where it can."""
    if quantizer is None or quantizer.mode != "quantize":
        return f"{what} is not quantized"
    if quantizer.bits > LARGEST_BITS:
        return f"{what} has {quantizer.bits} bits, and integer products take {LARGEST_BITS} at most"
    if quantizer.granularity == "per_tensor" or per_channel and quantizer.granularity == "per_channel":
        return None
    return f"{what} is quantized {quantizer.granularity}: there is no one scale to take out of the product"


def why_without_sites(model: AdaptedModel, module: str) -> str:
    """Why a module that is no layer with sites multiplies floats."""
    if f".{NAME}.gate" in module:
        return "a gate has no quantizer sites"
    _, prefix = base_of(model.module)
    is_head = not module.startswith(prefix) or "pooler" in module.split(".")
    if is_head:
        return "the head has no quantizer sites"
    weighed = any(site.module == module for site in model.sites.weights())
    return "no integer product serves it, only its weight lies on a grid" if weighed else "it has no quantizer sites"


def _codes(quantizer: Quantizer) -> str:
    """``uint8`` or ``int8``: the type of the codes at a site."""
    return str(codes_dtype(quantizer.qparams)).removeprefix("torch.")


def _words(site: str | None, quantizer: Quantizer) -> str:
    kind = "symmetric" if quantizer.symmetric else "asymmetric"
    return f"{site}: {quantizer.bits} bits, {kind}, {quantizer.granularity}"
