"""Exact int8 arithmetic: products of codes, integer linear layers, and the back ends that compute them."""

from qexp.kernels.int8.api import int8_linear, int8_matmul, pack_weight
from qexp.kernels.int8.backends import BackendReport, PackedWeight, examine, select, set_default, use
from qexp.kernels.int8.composition import quantize_codes
from qexp.kernels.int8.selftest import self_test

__all__ = [
    "BackendReport",
    "PackedWeight",
    "examine",
    "int8_linear",
    "int8_matmul",
    "pack_weight",
    "quantize_codes",
    "select",
    "self_test",
    "set_default",
    "use",
]
