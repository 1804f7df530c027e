"""Compiles the Triton kernels for GPUs that need not be here; prints {kernel and architecture: PTX} as JSON."""

from __future__ import annotations

import json
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from qexp.kernels.int8.triton_kernels import SMALL, product_kernel, quantize_kernel

NUMBERS = {"batch", "m", "n", "k", "depth", "size", "padded", "shift", "qmin", "qmax"}
FLOATS = {"x", "scale", "bias", "output_scale", "scale_pointer"}
CODES = {"a", "b", "codes"}


def compiled(kernel: Any, architecture: int, constants: dict[str, Any], types: dict[str, str]) -> str:
    signature = {name: "i32" if name in NUMBERS else "*fp32" if name in FLOATS else "*i32" for name in kernel.arg_names}
    signature |= {name: "*i8" for name in CODES & set(kernel.arg_names)} | types
    signature |= dict.fromkeys(constants, "constexpr")
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=places, attrs={})
    options = {"num_warps": SMALL.num_warps, "num_stages": SMALL.num_stages, "enable_fp_fusion": False}
    ptx: str = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options).asm["ptx"]
    return ptx


def product(architecture: int) -> str:
    """The product with every part of its epilogue."""
    blocks = SMALL.kwargs
    pointers = architecture < 90
    types = {"out": "*fp32"}
    if not pointers:
        types["a"] = f"tensordesc<i8[{blocks['BLOCK_M']},{blocks['BLOCK_K']}]>"
        types["b"] = f"tensordesc<i8[{blocks['BLOCK_N']},{blocks['BLOCK_K']}]>"
    constants = {"POINTERS": pointers, "ZEROS": 1, "SCALES": 1, "CODES": False, **blocks}
    return compiled(product_kernel.fn, architecture, constants, types)


if __name__ == "__main__":
    texts = {f"product sm_{architecture}": product(architecture) for architecture in (80, 90)}
    texts |= {f"quantize sm_{a}": compiled(quantize_kernel, a, {"BLOCK": 1024}, {}) for a in (80, 90)}
    print(json.dumps(texts))
