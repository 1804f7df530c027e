"""What is measured beside the figures: outliers of the float network, what methods measure of it, and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qexp.methods.base import BaseMethod
from qexp.models.statistics import measure_outliers
from qexp.runner.bench import Bench


def outliers(bench: Bench, folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Outlier statistics of the float network on the first batches of the evaluation set, for the record.

    Heat maps of them are drawn into ``folder`` where they are wanted: what was drawn -> file name.
    """
    with bench.phase("measuring outliers", bench.first_batches()) as batches:
        found = measure_outliers(bench.trained.model, batches)
    names: dict[str, str] = {}
    if bench.cfg.eval.heatmaps:
        from qexp.results.heatmap import write_heatmaps

        names = write_heatmaps(found, folder, _title(bench))
    for statistics in found["sites"].values():
        statistics.pop("per_dim_max", None)
    return found, names


def analysis(bench: Bench, folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Method -> what it measures of the float network, on the same batches; pictures as in :func:`outliers`."""
    found: dict[str, Any] = {}
    before = bench.trained.facts.get("before", {})
    for method in bench.methods:
        if type(method).analyse is not BaseMethod.analyse:
            with bench.phase(f"analysing {method.name}", bench.first_batches()) as batches:
                found[method.name] = method.analyse(bench.trained.model, batches, before.get(method.name, {}))
    if not (found and bench.cfg.eval.heatmaps):
        return found, {}
    from qexp.results.pictures import draw

    return found, draw(found, folder, _title(bench))


def _title(bench: Bench) -> str:
    return f"{bench.cfg.model.name} on {bench.cfg.task.name}"
