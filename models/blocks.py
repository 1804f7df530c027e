"""Run a network block by block, each from the output of the one before it.

What calibration block by block needs: its cost grows linearly with the blocks, and only one block's inputs and
outputs are kept at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from qexp.models.capture import site_tensor
from qexp.models.quantization import run_body
from qexp.models.sites import AdaptedModel


@dataclass
class BlockCall:
    """What a block is called with for one batch: ``hidden`` [B, T, d]; masks and positions, the same for all blocks."""

    hidden: Tensor
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class _Caught(Exception):
    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]):
        super().__init__()
        self.call = args, kwargs


def block_paths(model: AdaptedModel) -> tuple[str, ...]:
    """The dotted path of every block, in forward order: block i holds the linear layers of layer i."""
    inside = {info.layer: info.module for info in model.linears if info.layer is not None}
    return tuple(_block_around(model.module, inside[layer]) for layer in sorted(inside))


def _block_around(network: nn.Module, path: str) -> str:
    parts = path.split(".")
    ends = range(1, len(parts))
    lists = (end for end in ends if isinstance(network.get_submodule(".".join(parts[:end])), nn.ModuleList))
    return ".".join(parts[: next(lists) + 1])


def call_of(module: nn.Module, run: Callable[[], object]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of the first call of ``module`` in ``run()``, which stops there.

    They are caught ahead of the module's own hooks, so that a call with them passes those hooks once. ``RuntimeError``
    if the module is not called.
    """
    handle = module.register_forward_pre_hook(_stop, prepend=True, with_kwargs=True)
    try:
        run()
    except _Caught as caught:
        return caught.call
    finally:
        handle.remove()
    raise RuntimeError(f"this {type(module).__name__} is not called")


def _stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> NoReturn:
    raise _Caught(args, kwargs)


@torch.no_grad()
def first_inputs(network: nn.Module, model: AdaptedModel, batches: Iterable[Mapping[str, Tensor]]) -> list[BlockCall]:
    """What the first block of ``network`` (``model``'s, or a copy of it) is called with, for every batch.

    Nothing behind that call is run, and nothing is cached.
    """
    first = network.get_submodule(block_paths(model)[0])
    return [_block_call(*call_of(first, partial(run_body, network, batch))) for batch in batches]


def _block_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> BlockCall:
    rest = dict(kwargs)
    hidden, *others = args or (rest.pop("hidden_states"),)
    return BlockCall(hidden, tuple(others), rest)


def run_block(block: nn.Module, call: BlockCall, hidden: Tensor) -> Tensor:
    """The block's output [B, T, d] for ``hidden`` [B, T, d] in the place of the call's own."""
    return site_tensor(block(hidden, *call.args, **call.kwargs))


@torch.no_grad()
def advance(block: nn.Module, calls: Sequence[BlockCall]) -> None:
    """Take every call through the block: its output becomes the input of the next one, in place."""
    for call in calls:
        call.hidden = run_block(block, call, call.hidden)
