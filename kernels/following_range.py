"""A quantizer whose range follows its input differentiably while scales before it are fitted, and is learnt later."""

from __future__ import annotations

import torch
from torch import Tensor

from qexp.kernels.quantize import at_least_float32, qparams_from_range
from qexp.kernels.trained_quantizers import LearntRange, fake_quantize_learnt


class FollowingRange(LearntRange):
    """While ``following``, the range is the batch's own smallest and largest value, and the gradient passes through it.

    So a factor common to all channels of the input changes nothing but the step, and its gradient is zero: what is left
    to fit is how channels compare (arXiv 2211.16912). Otherwise it is a :class:`LearntRange`.
    """

    following = False

    def forward(self, x: Tensor) -> Tensor:
        if not (self.following and self.started):
            return super().forward(x)
        lo, hi = torch.aminmax(at_least_float32(x))
        p = qparams_from_range(lo.detach(), hi.detach(), self.bits, self.symmetric, signed=self.lowest_code < 0)
        if not self.symmetric:
            lo = lo.clamp_max(0.0)
            return fake_quantize_learnt(x, (hi - lo) / p.qmax, lo, p)
        largest = torch.maximum(lo.abs(), hi.abs())
        return fake_quantize_learnt(x, largest / p.qmax, None, p)
