"""Benchmarks in processes of their own, since what limits the instruction set must be set before Python starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}


def modes() -> dict[str, dict[str, str]]:
    """Name -> environment. A CPU with VNNI is also measured as if it had none; one without has nothing to limit."""
    from qexp.runner.provenance import isa

    wider = any(there for name, there in isa().items() if name != "avx2")
    return {"limited to AVX2": AVX2, "this CPU as it is": {}} if wider else {"this CPU as it is": {}}


def in_child(module: str, function: str, *arguments: Any, limit: float = 600, **environment: str) -> Any:
    """``module.function(*arguments)`` in a new interpreter; arguments and answer travel as JSON.

    ``RuntimeError`` with the last line that the child wrote if it fails, is killed or takes more than ``limit`` s.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        program = (
            f"import json, pathlib, {module}\n"
            f"answer = {module}.{function}(*json.loads({json.dumps(arguments)!r}))\n"
            f"pathlib.Path({str(answer)!r}).write_text(json.dumps(answer))"
        )
        try:
            run = subprocess.run(
                [sys.executable, "-c", program],
                cwd=Path(__file__).parent,
                env={**os.environ, **environment},
                capture_output=True,
                text=True,
                timeout=limit,
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"no answer within {limit:.0f} s") from None
        if run.returncode:
            lines = run.stderr.strip().splitlines() or [f"ended with code {run.returncode}"]
            raise RuntimeError(lines[-1])
        return json.loads(answer.read_text())
