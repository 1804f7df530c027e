"""What a call really executes, from torch's profiler: it sees every op that is dispatched, nested ones too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

PRODUCTS = {
    *("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::_int_mm", "aten::dot", "aten::mv"),
    *("mkldnn::_linear_pointwise", "aten::mkldnn_linear", "quantized::linear_dynamic", "quantized::linear"),
    "aten::_scaled_dot_product_flash_attention_for_cpu",
}
"""Ops that multiply matrices themselves rather than by calling another op; ours are all that begin with INT8."""
INT8 = "qexp::int8_"
TYPES = {"signed char": "int8", "unsigned char": "uint8", "float": "float32", "int": "int32"}


def _profiled(action: Callable[[], object]) -> Any:
    from torch.profiler import ProfilerActivity, profile

    action()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        action()
    return profiler


def products(action: Callable[[], object]) -> dict[str, int]:
    """Every matrix product of one call: ``op (types of the tensors it takes)`` -> how often."""
    events = _profiled(action).profiler.kineto_results.events()
    found = (event for event in events if event.name() in PRODUCTS or event.name().startswith(INT8))
    return dict(Counter(f"{event.name()} ({_operands(event.dtypes())})" for event in found))


def _operands(types: list[str]) -> str:
    return ", ".join(dict.fromkeys(TYPES[kind] for kind in types[:3] if kind in TYPES))


def totals(action: Callable[[], object], most: int = 10) -> list[tuple[str, int, float]]:
    """The ops in which one call spends its time: (op, calls, share of the time in the op itself)."""
    averages = _profiled(action).key_averages()
    spent = sum(event.self_cpu_time_total for event in averages)
    largest = sorted(averages, key=lambda event: -event.self_cpu_time_total)[:most]
    return [(event.key, event.count, event.self_cpu_time_total / spent) for event in largest]
