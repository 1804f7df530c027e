"""What the processes that train one network together agree on; a training in one process agrees with itself."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def count() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if _several() else 1


def rank() -> int:
    """Which of them this one is: 0 writes and reports."""
    return distributed.get_rank() if _several() else 0


def any_of(flag: bool) -> bool:
    """Whether ``flag`` is set in any of them. All must ask, and wait for each other here."""
    if not _several():
        return flag
    found = torch.tensor(float(flag))
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return bool(found)


def weight_of(items: Tensor | int) -> float:
    """This process's share of the ``items`` of all, times their number: what a mean over its own items is multiplied by
    where the mean over all processes is to be one over all items. 1 where every process has as many."""
    if not _several():
        return 1.0
    own = float(items)
    total = torch.tensor(own, dtype=torch.float64)
    distributed.all_reduce(total)
    return count() * own / float(total)


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized()
