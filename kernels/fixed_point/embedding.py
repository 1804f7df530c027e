"""An embedding in dynamic fixed point, forward and backward.

arXiv 2209.09815 maps embeddings too; how is not established, so what follows is ours: a table has one step for all of
its rows; of those that a batch asks for the codes are looked up. Gradients are mapped and added up as integers, row by
row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qexp.kernels.fixed_point.linear import Arithmetic
from qexp.kernels.fixed_point.mapping import magnitude, map_codes, step_exponent, to_fixed_point


@dataclass(frozen=True)
class LookedUp:
    """What the backward pass uses again: the rows of the table that were used (int64, ascending), which of them stands
    at each place (int64 [M]), and how many rows there are."""

    used: Tensor
    places: Tensor
    rows: int


def embedding(ids: Tensor, table: Tensor, arithmetic: Arithmetic, seed: int = 0) -> tuple[Tensor, LookedUp]:
    """float32 [M, D] of ids [M] and a float32 table [V, D] in the bits of weights, and what its gradient needs.

    With random rounding a row is drawn once, however often it is used. ``NotFiniteError`` for NaN or infinity anywhere
    in the table.
    """
    used, places = ids.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    exponent = step_exponent(magnitude(table), arithmetic.weight_bits)
    codes = map_codes(table[used], exponent, arithmetic.weight_bits, arithmetic.forward_rounding, seed)
    return codes.float().mul_(math.ldexp(1.0, exponent))[places], LookedUp(used, places, len(table))


def embedding_gradient(
    gradient: Tensor, saved: LookedUp, arithmetic: Arithmetic, padding: int | None = None, seed: int = 0
) -> Tensor:
    """float32 dtable [V, D] of the float32 gradient [M, D]: integer sums times a step, 0 for the row ``padding``."""
    mapped = to_fixed_point(gradient, arithmetic.gradient_bits, arithmetic.gradient_rounding, seed)
    sums = torch.zeros(len(saved.used), gradient.shape[1], dtype=torch.int64, device=gradient.device)
    sums.index_add_(0, saved.places, mapped.codes.long())
    whole = gradient.new_zeros(saved.rows, gradient.shape[1])
    whole[saved.used] = (sums.double() * mapped.step).float()
    if padding is not None:
        whole[padding] = 0.0
    return whole
