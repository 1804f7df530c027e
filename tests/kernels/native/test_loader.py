"""The library is built once, kept where it can be, and never missed without a reason. The builds here are tiny ones."""

from __future__ import annotations

import logging
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qexp.kernels import native
from qexp.kernels.native import build

needs_compiler = pytest.mark.skipif(build.missing_tool() is not None, reason=f"{build.missing_tool()}")


@pytest.fixture(autouse=True)
def first_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process with an empty cache and sources that compile in no time."""
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "tiny.cpp").write_text('extern "C" int tiny() { return 1; }\n')
    monkeypatch.setattr(build, "SOURCES", sources)
    monkeypatch.setattr(native, "_outcome", None)
    monkeypatch.setattr(torch.ops, "loaded_libraries", set())
    monkeypatch.setenv("QEXP_CACHE_DIR", str(tmp_path / "own"))
    monkeypatch.delenv("QEXP_NATIVE", raising=False)
    monkeypatch.delenv("CXX", raising=False)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_outcome", None)


def test_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QEXP_NATIVE", "0")
    assert native.unavailable() == "switched off by QEXP_NATIVE=0"
    assert not native.is_loaded()
    with pytest.raises(native.NativeUnavailable, match="QEXP_NATIVE=0"):
        native.load()


def test_another_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert "this is aarch64" in str(native.unavailable())


def test_no_avx2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx2_supported", lambda: False)
    assert "no AVX2" in str(native.unavailable())


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert native.unavailable() == "no C++ compiler ('no-such-compiler' not found): install g++ 9 or later, or set CXX"
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    forget(monkeypatch)
    assert "install g++" in str(native.unavailable())


def test_no_ninja(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", sys.executable)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    assert "pip install ninja" in str(native.unavailable())


def test_the_outcome_of_the_first_attempt_is_final(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QEXP_NATIVE", "0")
    first = native.unavailable()
    monkeypatch.delenv("QEXP_NATIVE")
    assert native.unavailable() == first


@needs_compiler
def test_built_once_then_loaded_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not native.is_built() and not native.is_loaded()
    native.load()
    assert native.is_built() and native.is_loaded()
    assert [path.name for path in build.cache_folder().iterdir()] == [build.cached_library().name]
    forget(monkeypatch)
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert native.unavailable() is None


def test_the_cache_knows_the_sources(tmp_path: Path) -> None:
    names = {build.cached_library()}
    (tmp_path / "sources" / "tiny.cpp").write_text("int tiny() { return 2; }\n")
    names.add(build.cached_library())
    (tmp_path / "sources" / "tiny.h").write_text("")
    names.add(build.cached_library())
    assert len(names) == 3


@needs_compiler
def test_sources_that_do_not_compile(tmp_path: Path) -> None:
    (tmp_path / "sources" / "tiny.cpp").write_text("#error of this compiler\n")
    reason = native.unavailable()
    assert reason is not None and "did not compile" in reason and "error: #error of this compiler" in reason
    assert "\n" not in reason and not native.is_built()


@needs_compiler
def test_a_cache_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QEXP_CACHE_DIR", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING, "qexp"):
        assert native.unavailable() is None
    assert native.is_loaded() and not native.is_built()
    assert "for this process only" in caplog.text


@needs_compiler
def test_what_a_killed_build_left_is_no_obstacle() -> None:
    library = build.cached_library()
    library.parent.mkdir(parents=True)
    library.with_name(f"{library.name}.123").write_bytes(b"half")
    (library.parent / "lock").write_text("")
    library.write_bytes(b"\x7fELF")
    assert native.unavailable() is None
    assert library.stat().st_size > 1000


@needs_compiler
def test_two_processes_build_at_once(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys; from qexp.kernels import native; native.build.SOURCES = pathlib.Path(sys.argv[1]); "
        "assert not native.is_built(); sys.stdout.write('.'); sys.stdout.flush(); sys.stdin.readline(); native.load()"
    )
    command = [sys.executable, "-W", "error", "-c", program, str(tmp_path / "sources")]
    builders = [subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True) for _ in range(2)]
    for builder in builders:
        assert builder.stdout is not None and builder.stdout.read(1) == "."
    errors = [builder.communicate("\n", timeout=120)[1] for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0], errors
    assert [path.name for path in build.cache_folder().iterdir()] == [build.cached_library().name]
