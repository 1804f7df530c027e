"""What a search looks for: one figure of each record, and the best of those that there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from qexp.conf.errors import UserError
from qexp.conf.sweeps import SearchConfig
from qexp.results.schema import INTEGER, OWN, Metric, Record

if TYPE_CHECKING:
    from qexp.runner.sweep.folder import SweepFolder
    from qexp.runner.sweep.plan import Cell
    from qexp.runner.sweep.state import Snapshot

LOWER_IS_BETTER = ("causal_lm", "masked_lm")
"""Objectives of tasks whose primary metric is a perplexity or bits; that of all others is better when higher."""


def settled(search: SearchConfig, configs: Sequence[Mapping[str, Any]]) -> SearchConfig:
    """``search`` with its setting named. Raises ``UserError`` where a cell will have no such figure."""
    setting = search.setting or next(iter(configs[0]["quant"]["bits"]), "float")
    for config in configs:
        check_setting(setting, config)
        if search.prune and config["train"]["precision"] != "fp32":
            raise UserError(f"sweep.prune=true takes train.precision=fp32 only, not {config['train']['precision']}")
    return replace(search, setting=setting)


def check_setting(setting: str, config: Mapping[str, Any]) -> None:
    """Raise ``UserError`` where a record of ``config`` will have no figure of ``setting``."""
    bits, precision = config["quant"]["bits"], config["train"]["precision"]
    known = ["float", *bits, *(f"{name}{INTEGER}" for name in bits if config["eval"]["integer"])]
    known += [precision] if precision != "fp32" else []
    if setting not in (*known, OWN, OWN + INTEGER):
        raise UserError(f"sweep.setting={setting}: these cells have no such figure; they have: {', '.join(known)}")


def lower_is_better(config: Mapping[str, Any]) -> bool:
    return config["task"]["objective"] in LOWER_IS_BETTER


def figure(record: Record, setting: str) -> tuple[str, Metric]:
    """Name and value of the task's primary metric, the first one. Raises ``UserError`` where there is none."""
    by_name = record.metrics.get(setting)
    if not by_name:
        there = ", ".join(record.metrics) or "none"
        raise UserError(f"sweep.setting={setting}: record {record.cell_id[:8]} has no such figure; it has: {there}")
    return next(iter(by_name.items()))


@dataclass(frozen=True)
class Best:
    """The best of ``among`` finished cells."""

    cell: Cell
    setting: str
    name: str
    value: float
    among: int

    def __str__(self) -> str:
        what = f"{self.setting} {self.name.replace('_', ' ')} {self.value:.4g}"
        return f"best of {self.among} finished: {what} with {self.cell.label} ({self.cell.cell_id[:8]})"

    def as_json(self) -> dict[str, Any]:
        return {
            "cell_id": self.cell.cell_id,
            "overrides": list(self.cell.overrides),
            "setting": self.setting,
            "metric": self.name,
            "value": self.value,
            "among": self.among,
        }


BIAS = "chosen by that figure, which makes it look better than it is: docs/sweeps.md says how to confirm it"


def best_of(folder: SweepFolder, snapshot: Snapshot) -> Best | None:
    """The best cell of a search so far; None for a grid, without a figure, and where cells have different metrics."""
    search = folder.plan.search
    if search is None or search.setting is None:
        return None
    found: list[tuple[Cell, str, Metric]] = []
    for state in snapshot.cells:
        record = folder.store.load(state.cell.cell_id, state.cell.table) if state.status == "finished" else None
        if record is not None and record.metrics.get(search.setting):
            found.append((state.cell, *figure(record, search.setting)))
    kinds = {(cell.config["task"]["name"], name, metric.definition.partition(";")[0]) for cell, name, metric in found}
    if len(kinds) != 1:
        return None
    sign = 1 if found[0][2].higher_is_better else -1
    cell, name, metric = max(found, key=lambda item: sign * item[2].value)
    return Best(cell, search.setting, name, metric.value, len(found))
