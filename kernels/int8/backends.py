"""What a back end of the exact int8 product is, which there are, and which one is used here.

A back end multiplies 8-bit codes into exact int32 sums. Some vendor products saturate silently on some processors, so
none is used before :func:`qexp.kernels.int8.selftest.self_test` has seen it give exact results in this process.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from qexp.kernels.quantize import QParams


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """An int8 weight [rows, depth] in the layout of one back end, ready to be multiplied many times.

    ``column_sums`` (int32 [rows]) is each output channel's sum over depth, which corrects for zero points of the input.
    """

    backend: str
    rows: int
    depth: int
    tensors: tuple[Tensor, ...]
    column_sums: Tensor

    def unpack(self) -> Tensor:
        """The int8 weight [rows, depth]."""
        if not self.tensors:
            return torch.zeros(self.rows, self.depth, dtype=torch.int8, device=self.column_sums.device)
        return find(self.backend).unpack(self.tensors, self.rows, self.depth)

    def __deepcopy__(self, memo: dict[int, object]) -> PackedWeight:
        # Nothing changes it, and oneDNN's layouts cannot be copied.
        return self

    @property
    def nbytes(self) -> int:
        """Bytes held, layout and sums together."""
        return sum(t.numel() * t.element_size() for t in (*self.tensors, self.column_sums))


@dataclass(frozen=True, eq=False)
class LinearSpec:
    """All of an integer linear layer but its input; see :func:`qexp.kernels.int8.int8_linear` for the arithmetic.

    ``scale`` is float32(input scale * weight scale), 0-dim or [rows] (or [M, 1], [M, rows] for input grids per token);
    ``zero_point`` the weight's as int32, 0-dim or [rows], or None for zero.
    """

    weight: PackedWeight
    input: QParams
    scale: Tensor
    zero_point: Tensor | None
    bias: Tensor | None
    output: QParams | None
    codes: bool


class Backend(ABC):
    """One way of multiplying codes. Operands are never empty, and K is within the int32-safe bound.

    ``device`` is the torch device type whose tensors it takes, ``products`` the dispatcher names of the operators that
    multiply the codes.
    """

    name: str
    device: str = "cpu"
    products: tuple[str, ...]

    @abstractmethod
    def unavailable(self) -> str | None:
        """Why it cannot run on this machine and what would mend it, or None. May build or load what it needs."""

    @property
    @abstractmethod
    def isa(self) -> str:
        """Instructions that multiply here, for instance ``avx2``."""

    @abstractmethod
    def pack(self, b: Tensor) -> tuple[Tensor, ...]:
        """The back end's layout of an int8 weight [N, K] of any strides."""

    @abstractmethod
    def unpack(self, tensors: Sequence[Tensor], rows: int, depth: int) -> Tensor:
        """The int8 weight [rows, depth] that was packed."""

    @abstractmethod
    def matmul(self, a: Tensor, weight: PackedWeight) -> Tensor:
        """int32 [M, N] of contiguous uint8 or int8 codes a [M, K]."""

    def batched_matmul(self, a: Tensor, b: Tensor) -> Tensor:
        """int32 [B, M, N] of contiguous uint8 or int8 a [B, M, K] and int8 b [B, N, K] of any strides."""
        return torch.stack([self.matmul(x, pack_with(self, y)) for x, y in zip(a, b, strict=True)])

    def linear(self, x: Tensor, spec: LinearSpec) -> Tensor | None:
        """The whole layer in one operator: contiguous float32 x [M, K] to [M, N]; None where it has none for ``spec``.

        Bit for bit what the composition of quantize, ``matmul`` and rescale gives, which is used instead of None.
        ``ValueError`` if x holds NaN or infinity.
        """
        return None


def pack_with(backend: Backend, b: Tensor) -> PackedWeight:
    """An int8 weight [N, K] packed for one back end, unchecked; one without elements holds no tensors."""
    column_sums = b.sum(1, dtype=torch.int32)
    return PackedWeight(backend.name, b.shape[0], b.shape[1], backend.pack(b) if b.numel() else (), column_sums)


_CLASSES = {
    "amx": "onednn:AmxBackend",
    "vnni": "onednn:VnniBackend",
    "avx2": "avx2:Avx2Backend",
    "tiled": "tiled:TiledBackend",
    "reference": "reference:ReferenceBackend",
    "triton": "triton:TritonBackend",
    "cuda": "cuda:CudaBackend",
}
"""Every back end's class, for each device fastest first: the order in which ``auto`` asks."""

NAMES = ("auto", *_CLASSES)
"""What may be asked for."""

_default = "auto"


@dataclass(frozen=True)
class BackendReport:
    """Whether a back end can be used here: it can if it runs (``available``) and its results are ``exact``."""

    name: str
    device: str
    available: bool
    exact: bool
    isa: str | None
    reason: str | None

    @property
    def usable(self) -> bool:
        return self.available and self.exact


@cache
def find(name: str) -> Backend:
    """The back end of that name, usable here or not. ``ValueError`` for a name that does not exist."""
    if name not in _CLASSES:
        raise ValueError(f"unknown int8 back end {name!r}: {', '.join(NAMES)}")
    module, attribute = _CLASSES[name].split(":")
    backend: Backend = getattr(importlib.import_module(f"qexp.kernels.int8.{module}"), attribute)()
    return backend


@cache
def examine_one(name: str) -> BackendReport:
    """What :func:`select` knows of one back end; it is built and tested at the first call in a process."""
    from qexp.kernels.int8.selftest import self_test

    backend = find(name)
    if (missing := backend.unavailable()) is not None:
        return BackendReport(name, backend.device, False, False, None, missing)
    wrong = self_test(backend)
    return BackendReport(name, backend.device, True, wrong is None, backend.isa, wrong)


def examine() -> list[BackendReport]:
    """Every back end: usable here, or why not."""
    return [examine_one(name) for name in _CLASSES]


def select(name: str = "auto", device: str = "cpu") -> Backend:
    """The back end to use for tensors on a device type: the named one, or the fastest exact one for ``auto``.

    ``auto`` first means the default that :func:`use` or :func:`set_default` set. ``ValueError`` where a named back end
    does not exist, cannot run here, is not exact here, or works on another device.
    """
    name = _default if name == "auto" else name
    if name == "auto":
        return _fastest(device)
    backend, report = find(name), examine_one(name)
    if not report.usable:
        state = "is not exact" if report.available else "cannot be used"
        raise ValueError(f"int8 back end {name!r} {state} here: {report.reason}")
    if backend.device != device:
        raise ValueError(f"int8 back end {name!r} works on {backend.device} tensors, these are on {device}")
    return backend


@cache
def _fastest(device: str) -> Backend:
    for name in _CLASSES:
        if find(name).device == device and examine_one(name).usable:
            return find(name)
    raise ValueError(f"no exact int8 back end for {device} tensors here; see `qexp doctor`")


def set_default(name: str) -> None:
    """What ``auto`` means from now on in this process. ``ValueError`` for a name that does not exist."""
    global _default
    if name not in NAMES:
        raise ValueError(f"unknown int8 back end {name!r}: {', '.join(NAMES)}")
    _default = name


@contextmanager
def use(name: str) -> Iterator[None]:
    """:func:`set_default` for the length of a ``with`` block."""
    before = _default
    set_default(name)
    try:
        yield
    finally:
        set_default(before)
