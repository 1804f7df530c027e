"""Read what flows at sites during a forward pass, without changing it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from qexp.models.sites import Site


def site_tensor(value: object) -> Tensor:
    """The activation in what a module takes or returns: itself, or the first element of a tuple."""
    tensor = value[0] if isinstance(value, tuple) else value
    if not isinstance(tensor, Tensor):
        raise TypeError(f"expected a tensor at this site, got {type(tensor).__name__}")
    return tensor


@contextmanager
def capture(module: nn.Module, sites: Iterable[Site]) -> Iterator[dict[str, Tensor]]:
    """Yield a dictionary that holds, after each forward pass, the tensor of every given site, by the site's name.

    Tensors keep their autograd graph, so that a loss can be built on them. Hooks are gone when the block ends.
    """
    caught: dict[str, Tensor] = {}
    handles = [_hook(module.get_submodule(site.module), site, caught) for site in sites]
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()


def _hook(owner: nn.Module, site: Site, caught: dict[str, Tensor]) -> RemovableHandle:
    if site.kind == "input":

        def before(_: nn.Module, args: tuple[object, ...]) -> None:
            caught[site.name] = site_tensor(args)

        return owner.register_forward_pre_hook(before)

    def after(_: nn.Module, args: tuple[object, ...], output: object) -> None:
        caught[site.name] = site_tensor(output)

    return owner.register_forward_hook(after)
