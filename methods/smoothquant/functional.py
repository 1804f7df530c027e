"""SmoothQuant's closed form."""

from __future__ import annotations

import torch
from torch import Tensor


def smoothing_scales(activations: Tensor, weights: Tensor, strength: float) -> Tensor:
    """``s_j = max|X_j|^strength / max|W_j|^(1 - strength)`` (arXiv 2211.10438, eq. 4), [channels].

    ``activations`` and ``weights`` are the maxima, [channels] each, at least 0. A channel without a signal, or that
    nothing reads, gives 1: there is nothing to move.
    """
    scales = activations.pow(strength) / weights.pow(1 - strength)
    return torch.where((activations > 0) & (weights > 0), scales, 1.0)
