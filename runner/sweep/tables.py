"""Tables as a sweep: their experiments are its cells, so that several run at a time, here or on a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qexp.conf.errors import UserError
from qexp.conf.sweeps import SearchConfig
from qexp.runner.agenda import COMMITTED, Agenda, Cells, Item
from qexp.runner.plan import overrides_of
from qexp.runner.sweep.plan import Cell, SweepPlan, make_cell, plan_experiments
from qexp.runner.sweep.settings import compose_settings


def plan_tables(
    tables: Mapping[str, Cells],
    agenda: Agenda,
    overrides: Sequence[str],
    seeds: Sequence[int] | None,
    words: Sequence[str],
    settings: Sequence[str],
) -> SweepPlan:
    """The experiments of ``agenda``, which was made of ``tables``; done ones too, so that the same command is the same
    sweep.

    Args:
        overrides, seeds: those from which the tables were made.
        words: of the ``qexp reproduce`` that makes this plan again.
        settings: the sweep's own. Raises ``UserError`` where they ask for a search, and where they are wrong.
    """
    search = compose_settings(settings).sweep
    if search != SearchConfig(max_crashes=search.max_crashes):
        raise UserError("sweep.search: a table says which cells it has; a search is `qexp sweep`")
    given: dict[int, tuple[str, ...]] = {}
    for name, found in tables.items():
        places = overrides_of(name, overrides, seeds)
        given |= {id(config): places[place] for place, config in found.items()}
    left = [item for item in agenda.items if not (agenda.only_missing and item.state == COMMITTED)]
    return plan_experiments([_cell(item, given[id(item.config)]) for item in left], "qexp reproduce", words)


def _cell(item: Item, overrides: tuple[str, ...]) -> Cell:
    return make_cell(item.config, overrides, f"{item.tables[0]}: {item.name}")
