"""bitsandbytes' INT8 layers in the place of a network's linear ones, and what they really multiply."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from qexp.models.unit_scaled.layers import refuse_unit_scaled

FLOAT_PRODUCTS = ("aten::mm", "aten::matmul", "aten::addmm")


def convert(network: nn.Module, threshold: float, exclude: tuple[str, ...]) -> tuple[str, ...]:
    """Replace the linear layers (``nn.Linear``, ``Conv1D``) of ``network`` in place; their names."""
    refuse_unit_scaled(network, "bitsandbytes")
    found = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Linear | Conv1D)]
    chosen = [(name, layer) for name, layer in found if not any(part in name for part in exclude)]
    for name, layer in chosen:
        network.set_submodule(name, _converted(layer, threshold))
    return tuple(name for name, _ in chosen)


def _converted(layer: Any, threshold: float) -> nn.Module:
    from bitsandbytes.nn import Linear8bitLt

    weight = layer.weight.t().contiguous() if isinstance(layer, Conv1D) else layer.weight
    has_bias = layer.bias is not None
    new = Linear8bitLt(weight.shape[1], weight.shape[0], has_bias, has_fp16_weights=False, threshold=threshold)
    new.load_state_dict({"weight": weight} | ({"bias": layer.bias} if has_bias else {}))
    return InHalf(new.to(weight.device)).eval()


class InHalf(nn.Module):
    """Gives the layer 16-bit inputs, as LLM.int8() has them: in that precision it multiplies the outlier columns."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x.to(torch.float16))
        return y.to(x.dtype)


@cache
def multiplies_integers(device: torch.device) -> bool:
    """Whether bitsandbytes' INT8 product runs in integers on a device: by what torch's profiler sees under one."""
    import bitsandbytes  # noqa: F401  (registers the operator)
    from torch.profiler import ProfilerActivity, profile

    codes = torch.ones(32, 32, dtype=torch.int8, device=device)
    torch.ops.bitsandbytes.int8_linear_matmul(codes, codes)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        torch.ops.bitsandbytes.int8_linear_matmul(codes, codes)
    return not any(event.key in FLOAT_PRODUCTS for event in profiler.key_averages())
