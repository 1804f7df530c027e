"""What tables still ask for: each experiment once, what became of it so far, and what it will cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qexp.conf.schema import ExperimentConfig
from qexp.runner.identity import cell_id, trained_networks
from qexp.runner.plan import Place, by_id
from qexp.runner.predict import Cost, Predictor, Total, total
from qexp.runner.rerun import config_of

if TYPE_CHECKING:
    from qexp.results.schema import Record

DONE, DIVERGED, COMMITTED, STALE, TO_DO = "done", "diverged", "committed", "stale", "to do"
STATES = (DONE, DIVERGED, COMMITTED, STALE, TO_DO)
"""``committed``: only among the records that come with qexp; ``stale``: done by an older version of a recipe."""

Cells = Mapping[Place, ExperimentConfig]


@dataclass(frozen=True)
class Item:
    """One experiment of an agenda."""

    config: ExperimentConfig
    cell: str
    state: str
    tables: tuple[str, ...]
    cost: Cost

    @property
    def name(self) -> str:
        """``qat,gated_attention minilm sst2 seed=1000``."""
        methods = ",".join(choice.name for choice in self.config.method)
        return f"{methods} {self.config.model.name} {self.config.task.name} seed={self.config.seed}"


@dataclass(frozen=True)
class Agenda:
    items: tuple[Item, ...]
    only_missing: bool = False

    def counts(self, table: str | None = None) -> Counter[str]:
        """How many experiments are in each state, of one table or of all."""
        return Counter(item.state for item in self.items if table is None or table in item.tables)

    def to_run(self, table: str | None = None) -> list[Item]:
        """Experiments that would run now."""
        return [item for item in self.items if self._runs(item) and (table is None or table in item.tables)]

    def total(self, table: str | None = None) -> Total:
        """What they will cost together; networks that lie trained on the disk cost nothing."""
        chosen = self.to_run(table)
        ids = {identity for item in chosen for identity in item.cost.trainings}
        homes = {trained_networks(item.config) for item in chosen}
        kept = {identity for identity in ids for home in homes if (home / identity).is_dir()}
        return total((item.cost for item in chosen), kept)

    def _runs(self, item: Item) -> bool:
        return item.state in (STALE, TO_DO) or (item.state == COMMITTED and not self.only_missing)


def make_agenda(
    tables: Mapping[str, Cells], own: Sequence[Record], committed: Sequence[Record] = (), only_missing: bool = False
) -> Agenda:
    """Every experiment of ``tables`` once, in their order.

    Args:
        own: the user's records; one that diverged is an outcome too, and not run again.
        committed: those that come with qexp. Their figures predict costs; with ``only_missing`` nothing that they hold
            is run.
    """
    places: dict[str, list[str]] = {}
    configs: dict[str, ExperimentConfig] = {}
    for name, found in tables.items():
        for cell, config in by_id(found).items():
            configs.setdefault(cell, config)
            places.setdefault(cell, []).append(name)
    states = _states(configs, own, committed)
    predictor = Predictor([*own, *committed])
    costs = {cell: predictor.cost(config) for cell, config in configs.items()}
    items = (Item(configs[cell], cell, states[cell], tuple(places[cell]), costs[cell]) for cell in configs)
    return Agenda(tuple(items), only_missing)


def _states(
    configs: Mapping[str, ExperimentConfig], own: Iterable[Record], committed: Iterable[Record]
) -> dict[str, str]:
    mine = {record.cell_id: record for record in own}
    theirs = {record.cell_id for record in committed}
    tables = {config.table for config in configs.values()}
    left = [record for cell, record in mine.items() if cell not in configs and record.config.get("table") in tables]
    old = {_without_recipes(config_of(record.config)) for record in left}
    states = {}
    for cell, config in configs.items():
        if cell in mine:
            states[cell] = DONE if mine[cell].status == "finished" else DIVERGED
        elif cell in theirs:
            states[cell] = COMMITTED
        else:
            states[cell] = STALE if old and _without_recipes(config) in old else TO_DO
    return states


def _without_recipes(config: ExperimentConfig) -> str:
    """The identity of an experiment whatever the version of its recipes."""
    task, train = replace(config.task, recipe=0), replace(config.train, recipe=0)
    return cell_id(replace(config, task=task, train=train))
