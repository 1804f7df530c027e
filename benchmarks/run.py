"""All benchmarks, or those named, into results/reference/performance/, and docs/performance.md from all that is there.

Run with: python benchmarks/run.py [NAME ...]. Each benchmark has a file of its own, with the machine that it ran on, so
that one can be measured anew by itself, and what a GPU measured stays where there is none.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import re
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from measure import Report, Result
from tables import markdown

BENCHMARKS = ("startup", "finished_cell", "many_records", "sweep", "training_loop", "fake_quantized_step")
BENCHMARKS += ("quantized_training", "blockwise", "low_precision_training", "unit_scaled_step", "integer_training")
BENCHMARKS += ("int8_gemm", "int8_model", "int8_gpu")
ROOT = Path(__file__).resolve().parents[1]
PAGE, MEASURED = ROOT / "docs" / "performance.md", ROOT / "results" / "reference" / "performance"
PACKAGES = ("torch", "transformers", "numpy", "torchao", "optimum-quanto", "bitsandbytes", "unit-scaling")
HEADER = """# Performance

Written by `make bench` (`python benchmarks/run.py`); do not edit by hand. Every figure compares things measured by
turns in one run, so that a busy machine slows all alike; given is the median of the turns, and their quartiles.
`results/reference/performance/` has every figure, CPU time included.

The project's reference CPU has AVX2 and no VNNI. On a CPU that has more, integer benchmarks run twice: as it is, and
*limited to AVX2*, which is what the goals are for, by these variables:

```text
{limits}
```

fbgemm does not read them: its figures are those of the whole CPU either way.

"""
GOALS = ("what", "against", "measured", "quartiles", "goal", "")
Measured = tuple[Report, dict[str, Any]]
"""What a benchmark found, and the machine."""
NOTES = """
- Training and fake quantization run on one thread.
- The training loop is timed from the construction of the trainer to its last checkpoint, against a script that takes
  every default of `TrainingArguments` and the recipe's figures. Its AdamW is torch's fused one.
- The quantized step has a quantizer at every site of the paper, weights and activations, in a BERT of 4 layers x 256
  (batch 8 x 128 tokens, dropout .1), with qexp's native kernels and without (`QEXP_NATIVE=0`). Peak memory is measured
  in a process of its own, above what imports take: once with glibc told to return freed blocks at once (what the
  tensors need), once with its default heap (what the process then holds, fragments included).
- The goals over torchao and quanto were set on an AMD CPU without VNNI, where torch's `_int_mm`, which both call, is an
  exact scalar loop, 30 to 90 times slower than fp32. On an Intel CPU with VNNI it is oneDNN's product: fast, and wrong
  where it is limited to AVX2, since it saturates (see *ones* below).
- Not in the table, since nothing is compared: W&B offline takes about 1.5 s at the first logged figure (import and
  start) and 0.5 ms a step after that; a run with `tracking=none`, and a finished cell, never import it.
"""


def page(measured: dict[str, Measured]) -> str:
    from child import AVX2

    results = [result for report, _ in measured.values() for result in report.results]
    header = HEADER.format(limits=" ".join(f"{key}={value}" for key, value in AVX2.items()))
    sections = "".join(report.text for report, _ in measured.values())
    return f"{header}{machines(measured)}\n## Goals\n{goals(results)}{NOTES}{sections}"


def goals(results: list[Result]) -> str:
    rows = [[r.what, r.baseline, r.figure, r.spread, r.goal, "met" if r.met else "**missed**"] for r in results]
    return markdown(GOALS, rows)


def machines(measured: dict[str, Measured]) -> str:
    """One line for each machine and day, with what was measured there."""
    names: dict[str, list[str]] = {}
    for name, (report, where) in measured.items():
        if report.results:
            names.setdefault(describe(where), []).append(f"`{name}`")
    return "".join(f"- Measured on {where}: {', '.join(those)}.\n" for where, those in names.items())


def machine() -> dict[str, Any]:
    from qexp.runner.provenance import cpu_model, git_state, isa, package_version

    return {
        "cpu": {"model": cpu_model(), "cores": os.cpu_count(), "isa": isa()},
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := package_version(name))},
        "git": git_state(),
        "date": date.today().isoformat(),
    }


def describe(facts: dict[str, Any]) -> str:
    cpu = facts["cpu"]
    has = ", ".join(name for name, there in cpu["isa"].items() if there) or "none of the INT8 instruction sets"
    versions = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    return (
        f"{facts['date']}, {cpu['model']}, {cpu['cores']} cores ({has}), {facts['platform']}, "
        f"Python {facts['python']}, {versions}"
    )


def to_json(found: dict[str, Any]) -> str:
    """Every innermost list on one line."""
    text = json.dumps(found, indent=1, ensure_ascii=False)
    return re.sub(r"\[[^][{}]*\]", lambda inner: " ".join(inner[0].split()), text) + "\n"


def measure(name: str) -> None:
    """Run a benchmark and keep what it found; one that lacks its hardware leaves what is there."""
    report = importlib.import_module(name).measure()
    print(*report.results, report.text, sep="\n", flush=True)
    path = MEASURED / f"{name}.json"
    if report.results or not path.exists():
        path.write_text(to_json({"machine": machine(), **asdict(report)}), encoding="utf-8")


def kept(name: str) -> Measured:
    found = json.loads((MEASURED / f"{name}.json").read_text(encoding="utf-8"))
    return Report([Result(**result) for result in found["results"]], found["text"], found["figures"]), found["machine"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all without one: {', '.join(BENCHMARKS)}")
    names = parser.parse_args().names
    if unknown := sorted(set(names) - set(BENCHMARKS)):
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are: {', '.join(BENCHMARKS)}")
    for name in names or BENCHMARKS:
        measure(name)
    PAGE.write_text(page({n: kept(n) for n in BENCHMARKS if (MEASURED / f"{n}.json").exists()}), encoding="utf-8")
    print(f"written: {PAGE.relative_to(ROOT)}, {MEASURED.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
