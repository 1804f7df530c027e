"""All benchmarks, into docs/performance.md, and every figure into results/reference/performance.json.

Run with: python benchmarks/run.py [NAME ...]; with names only those run, and neither is written. What a GPU measures
goes to results/reference/performance_gpu.json, from which a machine without one takes that section of the page.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import re
import sys
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
PAGE, REFERENCE = ROOT / "docs" / "performance.md", ROOT / "results" / "reference"
FIGURES, GPU_FIGURES = REFERENCE / "performance.json", REFERENCE / "performance_gpu.json"
PACKAGES = ("torch", "transformers", "numpy", "torchao", "optimum-quanto", "bitsandbytes", "unit-scaling")
HEADER = """# Performance

Written by `make bench` (`python benchmarks/run.py`); do not edit by hand. Every figure compares things measured by
turns in one run, so that a busy machine slows all alike; given is the median of the turns, and their quartiles.
`results/reference/performance.json` has every figure, CPU time included.

The project's reference CPU has AVX2 and no VNNI. On a CPU that has more, integer benchmarks run twice: as it is, and
*limited to AVX2*, which is what the goals are for, by these variables:

```text
{limits}
```

fbgemm does not read them: its figures are those of the whole CPU either way.

"""
GOALS = ("what", "against", "measured", "quartiles", "goal", "")
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


def page(reports: dict[str, Report]) -> str:
    from child import AVX2

    results = [result for report in reports.values() for result in report.results]
    header = HEADER.format(limits=" ".join(f"{key}={value}" for key, value in AVX2.items()))
    sections = "".join(report.text for report in reports.values())
    return f"{header}{describe(machine())}\n\n## Goals\n{goals(results)}{NOTES}{sections}"


def goals(results: list[Result]) -> str:
    rows = [[r.what, r.baseline, r.figure, r.spread, r.goal, "met" if r.met else "**missed**"] for r in results]
    return markdown(GOALS, rows)


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
        f"Measured on {facts['date']}: {cpu['model']}, {cpu['cores']} cores ({has}), {facts['platform']}, "
        f"Python {facts['python']}, {versions}."
    )


def figures(reports: dict[str, Report]) -> dict[str, Any]:
    return {
        "machine": machine(),
        "goals": [asdict(result) for report in reports.values() for result in report.results],
        "figures": {name: report.figures for name, report in reports.items() if report.figures},
    }


def to_json(found: dict[str, Any]) -> str:
    """Every innermost list on one line."""
    text = json.dumps(found, indent=1, ensure_ascii=False)
    return re.sub(r"\[[^][{}]*\]", lambda inner: " ".join(inner[0].split()), text) + "\n"


def kept(report: Report) -> Report:
    """What a GPU measured: written where there is one, read where there is none."""
    if report.figures:
        GPU_FIGURES.write_text(to_json({"machine": machine(), **asdict(report)}))
    elif GPU_FIGURES.exists():
        found = json.loads(GPU_FIGURES.read_text())
        text = f"{found['text']}\n{describe(found['machine'])}\n"
        return Report([Result(**result) for result in found["results"]], text)
    return report


def main(names: list[str]) -> None:
    reports: dict[str, Report] = {}
    for name in names or BENCHMARKS:
        report = importlib.import_module(name).measure()
        reports[name] = kept(report) if name == "int8_gpu" else report
        print(*reports[name].results, sep="\n", flush=True)
        print(reports[name].text)
    if not names:
        PAGE.write_text(page(reports))
        FIGURES.write_text(to_json(figures(reports)))
        print(f"written: {PAGE.relative_to(ROOT)}, {FIGURES.relative_to(ROOT)}")


if __name__ == "__main__":
    main(sys.argv[1:])
