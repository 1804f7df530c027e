"""A sweep as a plan: its cells with their whole configurations, kept as JSON in the sweep's folder."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from qexp.conf.errors import UserError
from qexp.conf.schema import ExperimentConfig
from qexp.conf.sweeps import SearchConfig, SweepConfig
from qexp.runner.compose import compose, compose_difference, to_dict
from qexp.runner.identity import cell_id, training_id
from qexp.runner.overrides import split
from qexp.runner.pretraining import pretraining_run
from qexp.runner.rerun import quoted
from qexp.runner.secrets import refuse_secrets
from qexp.runner.sweep.expand import axes, expand
from qexp.runner.sweep.objective import settled
from qexp.runner.sweep.settings import check_search, compose_settings
from qexp.runner.sweep.space import Space, draw, first, varied

PLAN_VERSION = 1
_SEED = re.compile(r"seed=(\d{1,9})")


@dataclass(frozen=True)
class Cell:
    """One experiment of a sweep."""

    cell_id: str
    label: str
    """Its values of the keys that the sweep varies: ``method=ptq seed=1``."""
    overrides: tuple[str, ...]
    config: dict[str, Any]
    """The composed configuration: a worker composes nothing."""
    trainings: tuple[str, ...] = ()
    """Ids of the networks that it may have to train, which only one process at a time may do."""

    @property
    def table(self) -> str:
        return str(self.config["table"])


@dataclass(frozen=True)
class SweepPlan:
    """``sweep_id`` is the identity of the set of cells: the same command is the same sweep, and goes on."""

    sweep_id: str
    overrides: tuple[str, ...]
    """As the user gave them, without the sweep's own settings."""
    directory: str
    """Working directory of the command, which relative paths of configurations start from."""
    cells: tuple[Cell, ...]
    """All of them; of a search that proposes them later, one example."""
    search: SearchConfig | None = None
    """Null for a grid."""
    program: str = "qexp sweep"
    """What was called with ``overrides``."""

    @property
    def proposes(self) -> bool:
        """Whether its cells are found while it runs."""
        return self.search is not None and self.search.search == "optuna"

    @property
    def command(self) -> str:
        """What to type for a sweep like this one."""
        search = {} if self.search is None else asdict(self.search)
        changed = [
            f"sweep.{key}={quoted(value)}" for key, value in search.items() if value != getattr(SearchConfig(), key)
        ]
        return " ".join([self.program, *self.overrides, *changed])

    @property
    def results_dir(self) -> Path:
        return Path(self.directory, self.cells[0].config["results_dir"])


def plan_sweep(overrides: Sequence[str]) -> tuple[SweepPlan, SweepConfig]:
    """The cells of a sweep, each once, and the sweep's own settings. Nothing is written.

    Raises ``UserError`` that names the cell for one that does not compose.
    """
    refuse_secrets(overrides)
    experiments, own = split(overrides)
    settings = compose_settings(own)
    space = axes(experiments)
    check_search(settings.sweep, space)
    cells = make_cells(_overrides_of_cells(settings.sweep, space), varied(space))
    search = None if settings.sweep.search == "grid" else settled(settings.sweep, [cell.config for cell in cells])
    return SweepPlan(_identity(cells, search, space), tuple(experiments), os.getcwd(), cells, search), settings


def plan_experiments(cells: Sequence[Cell], program: str, words: Sequence[str]) -> SweepPlan:
    """Given cells as a sweep that the command ``program`` with ``words`` plans."""
    return SweepPlan(_identity(cells), tuple(words), os.getcwd(), tuple(cells), program=program)


def _overrides_of_cells(search: SearchConfig, space: Space) -> list[tuple[str, ...]]:
    if search.search == "grid":
        return expand(space)
    return draw(space, search.trials or 1, search.seed) if search.search == "random" else [first(space)]


def _identity(cells: Iterable[Cell], search: SearchConfig | None = None, space: Space | None = None) -> str:
    whole = " ".join(sorted(cell.cell_id for cell in cells))
    if search is not None and space is not None and search.search == "optuna":
        kept = asdict(replace(search, trials=None, max_crashes=1))
        whole = json.dumps([whole, kept, {key: repr(space[key]) for key in sorted(space)}])
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


def make_cells(expanded: Sequence[tuple[str, ...]], places: Sequence[int]) -> tuple[Cell, ...]:
    """The cell of each of these overrides, each once; ``places`` of them make its label.

    Raises ``UserError`` that names the cell for one that does not compose.
    """
    configs = _composed(expanded, places)
    if len({config.results_dir for config in configs}) > 1:
        raise UserError("results_dir: the records of one sweep go into one folder")
    found: dict[str, Cell] = {}
    for texts, config in zip(expanded, configs, strict=True):
        cell = make_cell(config, texts, _label(texts, places) or "as it is")
        found.setdefault(cell.cell_id, cell)
    return tuple(found.values())


def make_cell(config: ExperimentConfig, overrides: tuple[str, ...], label: str) -> Cell:
    """The cell of a configuration and the overrides that compose it."""
    return Cell(cell_id(config), label, overrides, to_dict(config), tuple(_trainings(config)))


def _trainings(config: ExperimentConfig) -> Iterable[str]:
    if config.pretraining is not None:
        yield training_id(pretraining_run(config))
    if config.train.max_steps:
        yield training_id(config)


def _label(texts: tuple[str, ...], varied: Sequence[int]) -> str:
    return " ".join(texts[place] for place in varied)


def _composed(cells: Iterable[tuple[str, ...]], varied: Sequence[int]) -> list[ExperimentConfig]:
    """The configuration of each cell. Cells that differ in the seed only are composed once: nothing depends on it."""
    known: dict[tuple[str, ...], ExperimentConfig] = {}
    configs = []
    for texts in cells:
        seeds = [found[1] for text in texts if (found := _SEED.fullmatch(text))]
        others = tuple(text for text in texts if not _SEED.fullmatch(text))
        if others not in known:
            try:
                known[others] = compose(texts)
            except UserError as error:
                where = f"cell {label}: " if (label := _label(texts, varied)) else ""
                raise UserError(f"{where}{error}") from None
        configs.append(replace(known[others], seed=int(seeds[0])) if seeds else known[others])
    return configs


def write_plan(plan: SweepPlan, path: Path) -> None:
    """Write ``plan`` as JSON, all of it or nothing. A plan that is there already stays: it has the same cells, and of
    a search that proposes them as many or more."""
    if path.exists() and not _has_more_trials(plan, read_plan(path)):
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    content = json.dumps({"version": PLAN_VERSION, **asdict(plan)}, ensure_ascii=False)
    try:
        temporary.write_text(content, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _has_more_trials(plan: SweepPlan, known: SweepPlan) -> bool:
    return plan.proposes and trials_of(plan) > trials_of(known)


def trials_of(plan: SweepPlan) -> int:
    """How many cells a search proposes."""
    return (plan.search.trials or 0) if plan.search is not None else 0


def cell_from(data: Mapping[str, Any]) -> Cell:
    """Inverse of ``asdict``."""
    return Cell(**{**data, "overrides": tuple(data["overrides"]), "trainings": tuple(data["trainings"])})


def read_plan(path: Path) -> SweepPlan:
    """Inverse of :func:`write_plan`. Raises ``UserError`` for a file that is no plan of this version."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if (version := data.pop("version")) != PLAN_VERSION:
            raise UserError(f"{path} is a sweep of version {version}, this qexp reads {PLAN_VERSION}; start a new one")
        cells = tuple(map(cell_from, data["cells"]))
        search = SearchConfig(**data["search"]) if data.get("search") else None
        return SweepPlan(**{**data, "overrides": tuple(data["overrides"]), "cells": cells, "search": search})
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no plan of a sweep ({error}); start the sweep again") from error


def changes(plan: SweepPlan) -> list[str]:
    """What ``plan``'s overrides compose to today and did not then: ``task.recipe: 1 -> 2``, each difference once.

    Configurations change when qexp or its YAML files did.
    """
    found: dict[str, None] = {}
    for cell, config in zip(plan.cells, _composed([cell.overrides for cell in plan.cells], ()), strict=True):
        if cell_id(config) != cell.cell_id:
            for key, before, after in compose_difference(cell.config, to_dict(config)):
                found[f"{key}: {json.dumps(before)} -> {json.dumps(after)}"] = None
    return list(found)
