"""qexp's compiled CPU kernels: the operators ``torch.ops.qexp.*``, built at first use where a compiler is at hand.

:func:`load` once in a process makes them callable. ``QEXP_NATIVE=0`` in the environment switches them off.
"""

from __future__ import annotations

import os
import platform

import torch

from qexp.kernels.native import build


class NativeUnavailable(RuntimeError):
    """There are no native kernels in this process; one line says why and what would mend it."""


_outcome: str | None = None
"""Of this process's one attempt: empty for success, the reason for failure; None before it."""


def load() -> None:
    """Load the library from the cache, or build it. ``NativeUnavailable`` if that cannot be; the outcome is final."""
    if (reason := unavailable()) is not None:
        raise NativeUnavailable(reason)


def unavailable() -> str | None:
    """Why the native kernels cannot be used here, or None once they are loaded; tries to load at the first call."""
    global _outcome
    if _outcome is None:
        _outcome = _unsupported() or _load() or ""
    return _outcome or None


def is_loaded() -> bool:
    """Whether ``torch.ops.qexp.*`` can be called, without trying to make it so."""
    return _outcome == ""


def is_built() -> bool:
    """Whether the library is in the cache, so that :func:`load` takes no time."""
    return os.path.isfile(build.cached_library())


def needs_build() -> bool:
    """Whether :func:`load` would compile now, which takes a while; for whoever wants to say so."""
    return _outcome is None and not (is_built() or _unsupported() or build.missing_tool())


def _unsupported() -> str | None:
    if os.environ.get("QEXP_NATIVE") == "0":
        return "switched off by QEXP_NATIVE=0"
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return f"the native kernels are written for x86-64 processors, this is {platform.machine()}"
    if not torch.cpu._is_avx2_supported():
        return "this processor has no AVX2 instructions"
    return None


def _load() -> str | None:
    library = build.cached_library()
    if os.path.isfile(library):  # which, unlike Path.is_file, holds a folder that may not be read for an empty one
        try:
            torch.ops.load_library(library)  # type: ignore[no-untyped-call]
            return None
        except OSError:  # damaged, or of another system that shares this cache: built again below
            pass
    if (missing := build.missing_tool()) is not None:
        return missing
    try:
        build.build_and_load(library)
    except (RuntimeError, OSError) as error:
        return f"the native kernels did not compile: {error}"
    return None
