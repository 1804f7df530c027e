"""Random bits as a function of (seed, position): the same numbers on every device, thread and back end.

A generator with a state would have to be asked in one order; these can be drawn inside any kernel, in parallel.
"""

from __future__ import annotations

import torch
from torch import Tensor

GOLDEN = 0x9E3779B9
MULTIPLIERS = (0x7FEB352D, 0x846CA68B)
"""Of a bijective mixer of 32 bits whose output bits each depend on every input bit with nearly even odds."""
MASK = 0xFFFFFFFF
UNIFORM_BITS = 24
"""Bits of a drawn number: as many as float32 tells apart below 1."""


def fresh_seed() -> int:
    """A seed for one tensor's rounding, from torch's CPU generator: checkpoints keep that one's state."""
    return int(torch.randint(2**32, (), dtype=torch.int64))


def uniform_bits(count: int, seed: int, device: torch.device | None = None) -> Tensor:
    """``count`` integers from 0 to 2^24 - 1, evenly distributed: int64 [count], element i a function of seed and i."""
    h = (torch.arange(count, device=device) * GOLDEN + seed) & MASK
    h ^= h >> 16
    h = (h * MULTIPLIERS[0]) & MASK
    h ^= h >> 15
    h = (h * MULTIPLIERS[1]) & MASK
    h ^= h >> 16
    return h >> (32 - UNIFORM_BITS)
