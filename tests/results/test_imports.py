"""``qexp table`` reads records on a machine without a model, and starts at once."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "transformers", "datasets", "matplotlib", "pandas", "scipy", "numpy", "wandb", "evaluate")
MODULES = ("columns", "export", "heatmap", "html", "ledger", "library", "notes", "report.page", "rows", "schema")
MODULES += ("section", "select", "statistics", "store", "table")


def test_results_import_nothing_heavy() -> None:
    program = f"""
import importlib, sys
for name in {MODULES!r}:
    importlib.import_module("qexp.results." + name)
print(*sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


def test_pictures_need_no_torch() -> None:
    program = """
import sys, tempfile, pathlib
from qexp.results.heatmap import write_heatmaps
site = {"role": "ffn_output", "layer": 0, "max_abs": 9.0, "std": 1.0, "per_dim_max": [1.0, 9.0]}
with tempfile.TemporaryDirectory() as folder:
    write_heatmaps({"summary": {}, "sites": {"layers.0.ffn_output": site}}, pathlib.Path(folder), "tiny")
print("torch" in sys.modules)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
