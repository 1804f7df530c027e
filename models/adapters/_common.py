"""What the adapters share: collecting sites in forward order, swapping a block's class, the taps of a block."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from qexp.models.attention import NAME, attach_parts
from qexp.models.sites import AttentionInfo, LinearInfo, Site, SiteKind, SiteMap


class ResidualSum(nn.Module):
    """x + f(x): what the branch f reads, and the sum, whose output is a site. Unit scaling puts a weighted one here."""

    def split(self, stream: Tensor) -> Tensor:
        """What the branch reads of the stream."""
        return stream

    def forward(self, branch: Tensor, stream: Tensor) -> Tensor:
        return branch + stream


class ResidualTaps(nn.Module):
    """The two residual sums of a pre-LayerNorm block; a hook on its LayerNorms would miss the stream itself."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_residual = ResidualSum()
        self.ffn_residual = ResidualSum()


_MIXED: dict[tuple[type[nn.Module], type[nn.Module]], type[nn.Module]] = {}


def swap_class(module: nn.Module, mixin: type[nn.Module]) -> None:
    """Make ``module`` an instance of (mixin, its own class): a new forward, the same parameters and their names."""
    if isinstance(module, mixin):
        return
    base = type(module)
    if (mixin, base) not in _MIXED:
        # The name stays: accelerate and FSDP find a block by the name of its class.
        _MIXED[mixin, base] = type(base.__name__, (mixin, base), {"__module__": __name__})
    module.__class__ = _MIXED[mixin, base]


def restore_class(module: nn.Module, mixin: type[nn.Module]) -> None:
    """Undo :func:`swap_class` of ``mixin``, if that was the last one."""
    first, *bases = type(module).__bases__
    if first is mixin:
        module.__class__ = bases[0]


def swap_block(block: nn.Module, mixin: type[nn.Module]) -> None:
    """Swap the class of a pre-LayerNorm block and give it its :class:`ResidualTaps`."""
    swap_class(block, mixin)
    if not hasattr(block, NAME):
        block.add_module(NAME, ResidualTaps())


def base_of(model: Any) -> tuple[Any, str]:
    """The network below the head, and its dotted prefix within ``model`` (empty where ``model`` has no head)."""
    base = model.base_model
    return base, "" if base is model else f"{model.base_model_prefix}."


class Places:
    """Collects the sites and attention modules of one network in the order of its forward pass."""

    def __init__(self, network: nn.Module):
        self.network = network
        self._sites: list[Site] = []
        self.attention: list[AttentionInfo] = []
        self.linears: list[LinearInfo] = []

    def add(self, name: str, kind: SiteKind, module: str, carries: str, row_ndim: int = 2) -> None:
        """One site. ``name`` is ``layers.<i>.<role>``, or the role itself outside of the layers."""
        target = self.network.get_submodule(module)
        layer, role = _layer_and_role(name)
        channel_axis = 1 if isinstance(target, Conv1D) else 0
        self._sites.append(Site(name, role, kind, module, carries, layer, row_ndim, channel_axis))

    def weight(self, name: str, module: str) -> None:
        """The weight of ``module`` as site ``<name>_weight``; nothing where it has none (a LayerNorm without gain)."""
        if getattr(self.network.get_submodule(module), "weight", None) is not None:
            self.add(f"{name}_weight", "weight", module, f"weight of {module.rsplit('.', 1)[-1]}")

    def norm(self, name: str, module: str, carries: str, row_ndim: int = 2) -> None:
        """A normalisation: the sites ``<name>_weight`` and ``<name>``, its output."""
        self.weight(name, module)
        self.add(name, "output", module, carries, row_ndim)

    def linear(
        self, name: str, module: str, carries: str | None, *, reads: str, shared: bool = True, row_ndim: int = 2
    ) -> None:
        """A linear layer that reads a site (``shared``: not only linear layers do): its weight, and its output.

        Without ``carries`` the output has no site of its own: that of the activation function fused with it follows.
        """
        self.weight(name, module)
        if carries is not None:
            self.add(name, "output", module, carries, row_ndim)
        output = None if carries is None else name
        self.linears.append(LinearInfo(name, module, _layer_and_role(name)[0], reads, output, shared))

    def attend(
        self,
        layer: int,
        module: str,
        *,
        heads: int,
        head_dim: int,
        width: int,
        context_after_gate: bool,
        operands: tuple[str, str, str] = ("query", "key", "value"),
        query_factor: float = 1.0,
    ) -> None:
        """An attention module: its parts, and the sites of rotated operands, scores, probabilities and context.

        ``operands`` are the roles of query, key and value as they enter the products.
        """
        attach_parts(self.network.get_submodule(module), context_after_gate=context_after_gate)
        parts, at = f"{module}.{NAME}", f"layers.{layer}"
        query, key, value = (f"{at}.{operand}" for operand in operands)
        info = AttentionInfo(module, layer, heads, head_dim, width, query, key, value, query_factor)
        self.attention.append(info)
        side = "after" if context_after_gate else "before"
        for part in ("query", "key"):
            if (rotated := f"{part}_rotated") in operands:
                self.add(f"{at}.{rotated}", "output", f"{parts}.{part}", f"{part} with its rotary position", 2)
        self.add(f"{at}.attention_scores", "output", f"{parts}.scores", "scaled query-key products, before the mask", 3)
        self.add(f"{at}.attention_probs", "output", f"{parts}.probs", "attention probabilities, before dropout", 3)
        self.add(f"{at}.context", "output", f"{parts}.context", f"probability-weighted values, {side} any gate")

    def sites(self) -> SiteMap:
        return SiteMap(self._sites)


def _layer_and_role(name: str) -> tuple[int | None, str]:
    if not name.startswith("layers."):
        return None, name
    number, role = name.removeprefix("layers.").split(".", 1)
    return int(number), role
