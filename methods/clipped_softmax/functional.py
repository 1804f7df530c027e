"""Clipped softmax as a module for the attention function; the formula itself is in ``kernels/attention.py``."""

from __future__ import annotations

from torch import Tensor, nn

from qexp.kernels.attention import clipped_softmax


class ClippedSoftmax(nn.Module):
    """``clip((zeta - gamma) * softmax(x) + gamma, 0, 1)``, paper eq. 4; x [..., T] masked scores."""

    def __init__(self, gamma: float, zeta: float):
        super().__init__()
        self.gamma, self.zeta = gamma, zeta

    @property
    def stretch(self) -> tuple[float, float]:
        """(gamma, zeta): tells that a fused kernel may compute the same (``models/integer_layers.py``)."""
        return self.gamma, self.zeta

    def forward(self, x: Tensor) -> Tensor:
        return clipped_softmax(x, self.gamma, self.zeta)

    def extra_repr(self) -> str:
        return f"gamma={self.gamma:g}, zeta={self.zeta:g}"
