"""Where quantizers sit in a network: beside the module that they serve, found again by the name of their site."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from qexp.conf.errors import UserError
from qexp.kernels.quantizers import Quantizer
from qexp.models.sites import Site, SiteKind

WEIGHT, INPUT, OUTPUT = "weight_quantizer", "input_quantizer", "output_quantizer"
"""Names of the quantizers as submodules of the modules they serve."""
_NAMES: dict[SiteKind, str] = {"weight": WEIGHT, "input": INPUT, "output": OUTPUT}


def attach(network: nn.Module, site: Site, quantizer: Quantizer) -> None:
    """Put a quantizer at a site: a weight's as a parametrization, an activation's as a hook and a submodule."""
    # The hooks are module-level functions that find the quantizer on the module they are given, so that a deep copy
    # uses its own.
    target = network.get_submodule(site.module)
    if site.kind == "weight":
        parametrize.register_parametrization(target, "weight", quantizer)
    else:
        target.add_module(_NAMES[site.kind], quantizer)
        quantize_by(target, _NAMES[site.kind], site)


def quantize_by(target: nn.Module, name: str, site: Site) -> None:
    """Have the submodule ``name`` of ``target`` quantize the activation at ``site``, until :func:`unhook`."""
    if site.kind == "output":
        target.register_forward_hook(partial(_quantize_output, name, site.name))
    else:
        target.register_forward_pre_hook(partial(_quantize_input, name, site.name))


def unhook(target: nn.Module, name: str, site: Site) -> None:
    """Undo :func:`quantize_by`; the submodule stays."""
    for hooks in (target._forward_hooks, target._forward_pre_hooks):
        for key, hook in list(hooks.items()):
            if isinstance(hook, partial) and hook.func in (_quantize_output, _quantize_input):
                if hook.args == (name, site.name):
                    del hooks[key]


def quantizer_name(site: Site) -> str:
    """The dotted path of a site's quantizer once weights are baked."""
    return f"{site.module}.{_NAMES[site.kind]}"


def quantizer_at(network: nn.Module, site: Site) -> Quantizer | None:
    """The quantizer that stands at a site once weights are baked, or None."""
    found = getattr(network.get_submodule(site.module), _NAMES[site.kind], None)
    return found if isinstance(found, Quantizer) else None


def retire(network: nn.Module, site: Site) -> None:
    """Leave an activation's quantizer in its place, but take its hook away: something else quantizes there."""
    unhook(network.get_submodule(site.module), _NAMES[site.kind], site)


def _quantize_output(name: str, site: str, module: nn.Module, _: Any, output: Tensor) -> Tensor:
    with naming(site):
        return module.get_submodule(name)(output)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


def _quantize_input(name: str, site: str, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    with naming(site):
        return (module.get_submodule(name)(args[0]), *args[1:])


class naming:
    """Turns a quantizer's ``ValueError`` (NaN, infinity, no data) into a ``UserError`` that names the site."""

    def __init__(self, site: str):
        self.site = site

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        if isinstance(error, ValueError):
            raise UserError(f"cannot quantize site {self.site}: {error}") from error
