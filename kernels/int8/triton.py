"""Our own int8 product for GPUs, in Triton, with the quantization before it and the rescaling after it.

The layer is two kernels behind one operator: one quantizes x at memory speed, one multiplies and rescales each tile
while it is in registers. Nothing waits for the GPU but the check for NaN and infinity, and that only for the first
kernel, while the second already runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qexp.kernels.int8.backends import Backend, LinearSpec, PackedWeight
from qexp.kernels.int8.composition import codes_dtype
from qexp.kernels.int8.cuda import gpu_isa, padded_size, signed_codes, unavailable_gpu
from qexp.kernels.quantize import QParams

OLDEST_TRITON = (3, 4)
SHIFT = 128


@torch.library.custom_op("qexp::int8_triton", mutates_args=())
def int8_triton(a: Tensor, b: Tensor, column_sums: Tensor | None) -> Tensor:
    """int32 [B, M, N] of codes a [B, M, K] and a packed b [B, N, padded K]; a uint8 a needs b's sums over K [B, N]."""
    from qexp.kernels.int8 import triton_launch

    out = torch.empty(*a.shape[:2], b.shape[1], dtype=torch.int32, device=a.device)
    shift = 0 if a.dtype == torch.int8 else SHIFT
    sums = column_sums if shift else None
    with torch.cuda.device_of(a):  # type: ignore[no-untyped-call]
        triton_launch.multiply(signed_codes(a, b.shape[2]), b, out, column_sums=sums, shift=shift)
    return out


@torch.library.custom_op("qexp::int8_triton_linear", mutates_args=())
def int8_triton_linear(
    x: Tensor,
    weight: Tensor,
    column_sums: Tensor,
    input_scale: Tensor,
    input_zero: Tensor,
    input_ends: Sequence[int],
    weight_zero: Tensor | None,
    scale: Tensor,
    bias: Tensor | None,
    output_scale: Tensor | None,
    output_zero: Tensor | None,
    output_ends: Sequence[int],
    codes_dtype: torch.dtype | None,
) -> Tensor:
    """The layer of :func:`qexp.kernels.int8.int8_linear` for x [M, K] and a packed weight [N, padded K]."""
    from qexp.kernels.int8 import triton_launch

    codes = torch.empty(len(x), weight.shape[1], dtype=torch.int8, device=x.device)
    # Tensor cores multiply int8 by int8: an unsigned grid is shifted down, and its zero point with it.
    shift = SHIFT if input_ends[0] >= 0 else 0
    grid = QParams(input_scale, input_zero, *input_ends)
    not_finite = _Flag(triton_launch.quantize(x, codes, grid, shift))
    out = torch.empty(len(x), len(weight), dtype=codes_dtype or torch.float32, device=x.device)
    triton_launch.multiply(
        codes[None],
        weight[None],
        out[None],
        column_sums=column_sums,
        row_sums=None if weight_zero is None else codes.sum(1, dtype=torch.int32),
        input_zero=input_zero,
        weight_zero=weight_zero,
        scale=scale,
        bias=bias,
        output_scale=output_scale,
        output_zero=output_zero,
        depth=x.shape[1],
        shift=shift,
        qmin=output_ends[0],
        qmax=output_ends[1],
        ZEROS=_stride(weight_zero),
        SCALES=_stride(scale),
        CODES=codes_dtype is not None,
    )
    if not_finite.raised():
        raise ValueError("NaN or infinity in the input")
    return out


class _Flag:
    """A number on the GPU that is read while the kernels started after it still run."""

    def __init__(self, flag: Tensor):
        self.event: torch.cuda.Event | None = None
        self.value: Tensor | None = None
        # A graph being captured runs nothing yet, so there is nothing to read.
        if flag.is_cuda and torch.cuda.is_current_stream_capturing():
            return
        self.value = flag.to("cpu", non_blocking=True)
        if flag.is_cuda:
            self.event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self.event.record()

    def raised(self) -> bool:
        if self.event is not None:
            self.event.synchronize()
        return self.value is not None and bool(self.value)


def _stride(per_channel: Tensor | None) -> int:
    """Elements from one channel to the next: 0 for a value that all share."""
    return 0 if per_channel is None or per_channel.numel() == 1 else 1


class TritonBackend(Backend):
    name = "triton"
    device = "cuda"
    products = ("qexp::int8_triton", "qexp::int8_triton_linear")

    def unavailable(self) -> str | None:
        if (missing := unavailable_gpu()) is not None:
            return missing
        try:
            import triton
        except ImportError:
            return "Triton is not installed: pip install 'qexp[triton]'"
        if tuple(int(part) for part in triton.__version__.split(".")[:2]) < OLDEST_TRITON:
            return f"Triton {triton.__version__} is too old: it takes {OLDEST_TRITON[0]}.{OLDEST_TRITON[1]} or later"
        return None

    @property
    def isa(self) -> str:
        return gpu_isa()

    def pack(self, b: Tensor) -> tuple[Tensor, ...]:
        return (signed_codes(b, padded_size(b.shape[1])),)

    def unpack(self, tensors: Sequence[Tensor], rows: int, depth: int) -> Tensor:
        return tensors[0][:, :depth].contiguous()

    def matmul(self, a: Tensor, weight: PackedWeight) -> Tensor:
        sums: Tensor = int8_triton(a[None], weight.tensors[0][None], weight.column_sums[None])
        return sums[0]

    def batched_matmul(self, a: Tensor, b: Tensor) -> Tensor:
        column_sums = b.sum(2, dtype=torch.int32) if a.dtype == torch.uint8 else None
        sums: Tensor = int8_triton(a, signed_codes(b, padded_size(b.shape[2])), column_sums)
        return sums

    def linear(self, x: Tensor, spec: LinearSpec) -> Tensor | None:
        """Also takes half precision, which it reads as it is."""
        p, output = spec.input, spec.output
        if p.scale.numel() > 1 or p.zero_point.numel() > 1:
            return None
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
            y: Tensor = int8_triton_linear(
                x,
                spec.weight.tensors[0],
                spec.weight.column_sums,
                p.scale,
                p.zero_point,
                [p.qmin, p.qmax],
                spec.zero_point,
                spec.scale.contiguous(),
                None if spec.bias is None else spec.bias.contiguous(),
                None if output is None else output.scale,
                None if output is None else output.zero_point,
                [0, 0] if output is None else [output.qmin, output.qmax],
                codes_dtype(output) if spec.codes and output is not None else None,
            )
        return y
