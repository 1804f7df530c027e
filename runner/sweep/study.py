"""``sweep.search=optuna``: a study in a journal below the sweep's folder, kept true to the records.

What counts are the trials' files and the records. Before each proposal the study is told of every cell that has ended
since, whichever process ran it, so nothing is lost with a process. The journal is Optuna's own append-only JSON,
without pickles; if it cannot be read it is set aside and made again from the same files.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from qexp.conf.errors import UserError
from qexp.runner.sweep.claims import Claims
from qexp.runner.sweep.events import EventReader
from qexp.runner.sweep.expand import axes
from qexp.runner.sweep.folder import SweepFolder
from qexp.runner.sweep.objective import check_setting, figure, lower_is_better
from qexp.runner.sweep.plan import Cell, make_cells, trials_of
from qexp.runner.sweep.space import Interval, Space, Values, varied
from qexp.runner.tracking import Tracker

NAME = "sweep"
SECONDS_BETWEEN_TRIES = 0.1


class StudySearch:
    """Asks and tells, one process at a time."""

    def __init__(self, folder: SweepFolder):
        assert folder.plan.search is not None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._folder, self._search = folder, folder.plan.search
        self._space: Space = axes(folder.plan.overrides)
        self._claims = Claims(folder.claims)
        self._reader = EventReader(folder.events)
        self._pruned: set[str] = set()

    def propose(self) -> bool:
        """Tell the study what is known and add its next cell, unless all trials are there."""
        with self._alone():
            study = self._study(len(self._folder.trials.read()))
            self._tell(study)
            if len(self._folder.trials.read()) >= trials_of(self._folder.plan):
                return False
            self._keep(study.ask(_distributions(self._space)))
            return True

    def watched(self, tracker: Tracker, cell: Cell) -> Tracker:
        if not self._search.prune:
            return tracker
        from qexp.runner.sweep.pruning import PruningTracker

        number = next(number for number, known in self._folder.trials.read().items() if known.cell_id == cell.cell_id)
        return PruningTracker(tracker, self._trial(number), int(cell.config["train"]["max_steps"]))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """While no other process asks or tells. One that died in there is found out like the owner of a cell."""
        name = f"search-{self._folder.plan.sweep_id}"
        while (claim := self._claims.acquire(name)) is None:
            time.sleep(SECONDS_BETWEEN_TRIES)
        try:
            yield
        finally:
            claim.forget_dead()
            claim.release()

    def _study(self, number: int) -> optuna.Study:
        """The study, whose sampler is seeded for trial ``number``: a sampler's state is never kept."""
        try:
            storage = self._storage()
        except (ValueError, KeyError):  # a full disk cut a line short
            os.replace(self._journal, self._journal.with_suffix(".corrupt"))
            storage = self._storage()
        seed = int(np.random.SeedSequence((self._search.seed, number)).generate_state(1)[0])
        study = optuna.create_study(
            storage=storage,
            study_name=NAME,
            direction="minimize" if lower_is_better(self._folder.plan.cells[0].config) else "maximize",
            sampler=optuna.samplers.TPESampler(seed=seed),
            load_if_exists=True,
        )
        self._restore(study)
        return study

    @property
    def _journal(self) -> Path:
        return self._folder.path / "optuna.journal"

    def _storage(self) -> JournalStorage:
        return JournalStorage(JournalFileBackend(str(self._journal)))

    def _restore(self, study: optuna.Study) -> None:
        """Bring trials and their files together, whichever of the two a kill left behind."""
        files, trials = self._folder.trials.read(), study.get_trials(deepcopy=False)
        for number in range(len(trials), max(files, default=-1) + 1):
            study.add_trial(self._recreated(files.get(number)))
        for trial in trials:
            if trial.state is TrialState.RUNNING and trial.number not in files:
                if set(trial.params) == set(_distributions(self._space)):
                    self._keep(trial)
                else:
                    study.tell(trial.number, state=TrialState.FAIL)

    def _recreated(self, cell: Cell | None) -> FrozenTrial:
        if cell is None:
            return create_trial(state=TrialState.FAIL)
        distributions = _distributions(self._space)
        given = dict(zip(self._space, cell.overrides, strict=True))
        params = {key: _parameter(self._space[key], given[key]) for key in distributions}
        return create_trial(state=TrialState.RUNNING, params=params, distributions=distributions)

    def _keep(self, trial: optuna.Trial | FrozenTrial) -> None:
        """Give the trial its cell."""
        texts = tuple(_override(axis, trial.params.get(key)) for key, axis in self._space.items())
        (cell,) = make_cells([texts], varied(self._space))
        check_setting(str(self._search.setting), cell.config)
        self._folder.trials.write(trial.number, cell)

    def _tell(self, study: optuna.Study) -> None:
        """What has ended since. A failed cell stays open: the next launch tries it again."""
        self._pruned |= {event.cell for event in self._reader.new() if event.kind == "pruned"}
        cells = self._folder.trials.read()
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            cell = cells[trial.number]
            record = self._folder.store.load(cell.cell_id, cell.table) if self._folder.has_record(cell) else None
            if record is not None and record.status == "finished":
                study.tell(trial.number, self._value(record, study))
            elif record is not None or cell.cell_id in self._pruned:
                study.tell(trial.number, state=TrialState.PRUNED)  # diverged: Optuna counts it below all others

    def _value(self, record: Any, study: optuna.Study) -> float:
        name, metric = figure(record, str(self._search.setting))
        if metric.higher_is_better != (study.direction is optuna.study.StudyDirection.MAXIMIZE):
            raise UserError(
                f"{name} of record {record.cell_id[:8]} is better in the other direction than this search's"
            )
        return metric.value

    def _trial(self, number: int) -> optuna.Trial:
        storage = self._storage()
        study = optuna.load_study(
            study_name=NAME,
            storage=storage,
            sampler=optuna.samplers.RandomSampler(),
            pruner=optuna.pruners.MedianPruner(),
        )
        place = storage.get_study_id_from_name(NAME)
        return optuna.Trial(study, storage.get_trial_id_from_study_id_trial_number(place, number))


def _distributions(space: Space) -> dict[str, BaseDistribution]:
    """Of the keys that vary, as Hydra's own Optuna sweeper reads them."""
    return {key: _distribution(axis) for key, axis in space.items() if isinstance(axis, Interval) or len(axis) > 1}


def _distribution(axis: Values | Interval) -> BaseDistribution:
    if not isinstance(axis, Interval):
        return CategoricalDistribution([text.partition("=")[2] for text in axis])
    if axis.whole:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return FloatDistribution(axis.low, axis.high, log=axis.log)


def _override(axis: Values | Interval, parameter: Any) -> str:
    if isinstance(axis, Interval):
        return axis.override(parameter)
    return axis[0] if parameter is None else f"{axis[0].partition('=')[0]}={parameter}"


def _parameter(axis: Values | Interval, override: str) -> Any:
    """Inverse of :func:`_override`."""
    text = override.partition("=")[2]
    if not isinstance(axis, Interval):
        return text
    return int(text) if axis.whole else float(text)
