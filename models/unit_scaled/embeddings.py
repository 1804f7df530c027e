"""Sums of embeddings, by hooks on the modules around them: the families add plain tensors in their own code.

These lie on cut-edges (nothing but the table is behind them), so their factors need not be the same both ways.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from qexp.kernels.unit_scaling.scale import scaled


def average_terms(reader: nn.Module, terms: int) -> None:
    """``reader`` reads a sum of ``terms`` embeddings: multiply it by terms^-1/2, and each gradient by 1."""
    reader.register_forward_pre_hook(partial(_average, terms))


def _average(terms: int, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return scaled(args[0], terms**-0.5), *args[1:]


def look_up_every_position(module: nn.Module) -> None:
    """Have ``module`` look up a position for each token, not one for each column of the batch.

    The values are the same; the table's gradient is then a sum over the rows that its factor counts.
    """
    module.register_forward_pre_hook(_expand_positions, with_kwargs=True)


def _expand_positions(
    _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    ids = args[0] if args else kwargs.get("input_ids")
    if ids is None or kwargs.get("position_ids") is not None:
        return None
    columns = torch.arange(ids.shape[1], device=ids.device)
    return args, {**kwargs, "position_ids": columns.expand(ids.shape)}
