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
NOTES = """
- The training loop is timed from the construction of the trainer to its last checkpoint, against a script that takes
  every default of `TrainingArguments` and the recipe's figures. Its AdamW is torch's fused one.
- The quantized step has a quantizer at every site of the paper, weights and activations, in a BERT of 4 layers x 256
  (batch 8 x 128 tokens, dropout .1). Peak memory is measured in a process of its own, above what imports take: once
  with glibc told to return freed blocks at once (what the tensors need), once with its default heap (what the process
  then holds, fragments included).
- Not in the table, since nothing is compared: W&B offline takes about 1.5 s at the first logged figure (import and
  start) and 0.5 ms a step after that; a run with `tracking=none`, and a finished cell, never import it.
"""
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
    return HEADER + "\n".join(rows) + f"\n\n{machine()}\n{NOTES}"


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
