"""All benchmarks, into docs/performance.md.

Run with: python benchmarks/run.py [NAME ...]; with names only those run and nothing is written.
"""

from __future__ import annotations

import importlib
import platform
import sys
from datetime import date
from pathlib import Path

from measure import Result

BENCHMARKS = ("startup", "finished_cell", "training_loop", "fake_quantized_step")
PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
HEADER = """# Performance

Written by `make bench` (`python benchmarks/run.py`); do not edit by hand. Every figure compares two things measured by
turns in one run, so that a busy machine slows both; given is the median of the turns, and their quartiles.

| what | against | measured | quartiles | goal | |
|---|---|---|---|---|---|
"""


def page(results: list[Result]) -> str:
    rows = [
        f"| {r.what} | {r.baseline} | {r.figure} | {r.spread} | {r.goal} | {'met' if r.met else '**missed**'} |"
        for r in results
    ]
    return HEADER + "\n".join(rows) + f"\n\n{machine()}\n"


def machine() -> str:
    from qexp.runner.provenance import cpu_model, isa, package_version

    has = ", ".join(name for name, there in isa().items() if there) or "none of the INT8 instruction sets"
    versions = ", ".join(f"{name} {package_version(name)}" for name in ("torch", "transformers"))
    system = f"{cpu_model()} ({has}), {platform.system()}, Python {platform.python_version()}, {versions}"
    return f"Measured on {date.today().isoformat()}: {system}. Training and quantization on one thread."


def main(names: list[str]) -> None:
    results: list[Result] = []
    for name in names or BENCHMARKS:
        found = importlib.import_module(name).measure()
        print(*found, sep="\n", flush=True)
        results += found
    if not names:
        PAGE.write_text(page(results))
        print(f"written: {PAGE}")


if __name__ == "__main__":
    main(sys.argv[1:])
