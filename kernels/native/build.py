"""Compile the C++ of this folder into one library, kept in the user's cache under a hash of all that it depends on.

Each process builds in a folder of its own and moves the finished file into the cache in one step. So parallel builds,
killed builds and locks that nobody holds any more (torch's wait for ever) cannot block or mix.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

log = logging.getLogger("qexp")

SOURCES = Path(__file__).parent
# Never -ffast-math and never a fused multiply-add: results are the same bits as torch's own operators give.
FLAGS = ("-O3", "-fopenmp", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")


def cached_library() -> Path:
    """Where the library of these sources, flags, this torch and this machine is kept, built or not."""
    digest = hashlib.sha256(repr((FLAGS, torch.__version__, platform.machine())).encode())
    for source in sorted(SOURCES.glob("*.[ch]*")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return cache_folder() / f"qexp-{digest.hexdigest()[:16]}.so"


def cache_folder() -> Path:
    """``native`` in ``QEXP_CACHE_DIR``, or in the user's cache folder."""
    user = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(os.environ.get("QEXP_CACHE_DIR") or os.path.join(user, "qexp")) / "native"


def missing_tool() -> str | None:
    """What a build lacks here and how to get it, or None."""
    compiler = os.environ.get("CXX") or "c++"
    if shutil.which(compiler) is None:
        return f"no C++ compiler ({compiler!r} not found): install g++ 9 or later, or set CXX"
    with _own_programs():
        if shutil.which("ninja") is None:
            return "the build tool ninja is missing: pip install ninja"
    return None


def build_and_load(library: Path) -> None:
    """Compile, load into this process, and keep as ``library`` where the cache can be written.

    ``RuntimeError`` with the compiler's first complaint if the sources do not compile.
    """
    from torch.utils import cpp_extension

    log.info("compiling qexp's native kernels (once, about half a minute)")
    sources = [str(path) for path in sorted(SOURCES.glob("*.cpp"))]
    with tempfile.TemporaryDirectory(prefix="qexp-build-") as folder, _own_programs():
        try:
            cpp_extension.load(
                "qexp_native",
                sources,
                extra_cflags=list(FLAGS),
                extra_ldflags=["-fopenmp"],
                build_directory=folder,
                is_python_module=False,
            )
        except RuntimeError as error:
            raise RuntimeError(_first_complaint(str(error))) from error
        _keep(next(Path(folder).glob("*.so")), library)


def _keep(built: Path, library: Path) -> None:
    partial = library.with_name(f"{library.name}.{os.getpid()}")
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(built, partial)
        os.replace(partial, library)
    except OSError as error:
        log.warning("native kernels are compiled for this process only, the cache cannot be written: %s", error)
        with suppress(OSError):
            partial.unlink()


def _first_complaint(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "error:" in line), lines[0] if lines else "the build failed")


@contextmanager
def _own_programs() -> Iterator[None]:
    """PATH with this Python's own programs last: ninja is there also where its environment is not activated."""
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join(filter(None, (before, os.path.dirname(sys.executable))))
    try:
        yield
    finally:
        os.environ["PATH"] = before
