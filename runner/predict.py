"""What experiments will cost, from what earlier ones of their kind cost: seconds, peak memory, disk.

A time is the nearest earlier one, scaled by steps, batch, length and size of the network. Where nothing is near enough
(the same network, or one of its family, at no more than :data:`NEAR` times the work) it is unknown, and None says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from qexp.conf.schema import ExperimentConfig
from qexp.results.schema import Record
from qexp.runner.identity import training_id
from qexp.runner.pretraining import pretraining_run
from qexp.runner.work import Work, has_gpu

T = TypeVar("T")
NEAR = 30.0
"""Times more or less work beyond which a time is not scaled: fixed costs would be all of one, none of the other."""
LOADING = 0.004
"""Seconds a step below which nothing was trained: the record's network was trained by another run, and only loaded."""


@dataclass(frozen=True)
class Training:
    """One network that has to be there: wall seconds to train it, and bytes that it takes on the disk."""

    seconds: float | None
    disk: int | None


@dataclass(frozen=True)
class Cost:
    """One experiment's. ``trainings``: the networks it needs by training id, which other experiments may share."""

    trainings: Mapping[str, Training]
    rest: float | None
    """Seconds of everything else: preparing data, evaluating, drawing."""
    memory: int | None
    """Peak resident bytes."""


@dataclass(frozen=True)
class Total:
    """Of several experiments one after another in one process, each network trained once."""

    experiments: int
    seconds: float
    """The sum of what is known."""
    unknown: int
    """Experiments and networks whose time is not in ``seconds``."""
    memory: int | None
    """The largest peak that is known."""
    disk: int
    """Bytes of the networks that will be kept, as far as they are known."""
    unknown_disk: int
    """Networks whose size is not in ``disk``."""
    trainings: int
    """Networks to train."""
    unshared: int
    """Networks to train if every experiment trained its own."""
    saved: float
    """Seconds that sharing saves, as far as they are known."""


@dataclass(frozen=True)
class _Trained:
    """A network that some record trained."""

    work: Work
    seconds: float
    disk: int | None
    memory: int


class Predictor:
    """Predicts from ``records``; of equally near ones the first win, so the user's own should come first."""

    def __init__(self, records: Iterable[Record]):
        self._trained: dict[tuple[str, bool], _Trained] = {}
        self._evaluated: list[tuple[Work, tuple[float, int]]] = []
        for record in records:
            if record.status == "finished" and "wall_seconds" in record.provenance:
                self._learn(record)
        self._training_near = lru_cache(maxsize=None)(self._find_training)
        self._rest_near = lru_cache(maxsize=None)(self._find_rest)

    def cost(self, config: ExperimentConfig) -> Cost:
        """What running ``config`` takes if nothing of it is there yet."""
        work = Work.of(config, has_gpu(config.device))
        rest, peak = self._rest_near(work)
        trainings, peaks = {}, [peak]
        for run in _trainings(config):
            identity = training_id(run)
            trained = self._trained.get((identity, work.on_gpu)) or self._training_near(Work.of(run, work.on_gpu))
            trainings[identity] = Training(trained.seconds, trained.disk) if trained else Training(None, None)
            peaks.append(trained.memory if trained else None)
        return Cost(trainings, rest, max(filter(None, peaks), default=None))

    def _learn(self, record: Record) -> None:
        facts, timings = record.provenance, record.timings
        work = Work.of(record.config, bool(facts.get("gpu")) and record.config["device"] != "cpu")
        memory, training = int(facts.get("peak_memory_bytes", 0)), timings.get("train", 0.0)
        steps = work.steps - (record.training.get("resumed_from") or 0)
        if steps > 0 and training > LOADING * steps:
            new = _Trained(work, training * work.steps / steps, facts.get("disk_bytes"), memory)
            key = facts["training_id"], work.on_gpu
            if key not in self._trained or self._trained[key].seconds < new.seconds:
                self._trained[key] = new
        rest = float(facts["wall_seconds"]) - training - timings.get("pretrain", 0.0)
        self._evaluated.append((work, (max(rest, 0.0), memory)))

    def _find_training(self, work: Work) -> _Trained | None:
        """The nearest trained network, scaled to this one."""
        found = _nearest(work, ((one.work, one) for one in self._trained.values()), work.training_ratio)
        if found is None:
            return None
        one, ratio = found
        disk = work.bytes if one.disk is None else int(one.disk * (work.same_network(one.work) or 1.0))
        larger_batch = max(1.0, work.batch_tokens / one.work.batch_tokens)
        return _Trained(work, one.seconds * ratio, disk, int(one.memory * larger_batch))

    def _find_rest(self, work: Work) -> tuple[float | None, int | None]:
        """Seconds without training, and peak memory."""
        found = _nearest(work, self._evaluated, work.evaluation_ratio)
        if found is None:
            return None, None
        (seconds, memory), ratio = found
        return seconds * ratio, memory


def total(costs: Iterable[Cost], kept: Collection[str] = ()) -> Total:
    """What the experiments take together; networks with an id in ``kept`` are trained already."""
    listed = list(costs)
    every = [pair for cost in listed for pair in cost.trainings.items() if pair[0] not in kept]
    once = dict(every).values()
    rests = [cost.rest for cost in listed]
    times = [*rests, *(one.seconds for one in once)]
    seconds = math.fsum(filter(None, times))
    return Total(
        experiments=len(listed),
        seconds=seconds,
        unknown=times.count(None),
        memory=max((cost.memory for cost in listed if cost.memory), default=None),
        disk=sum(one.disk or 0 for one in once),
        unknown_disk=sum(one.disk is None for one in once),
        trainings=len(once),
        unshared=len(every),
        saved=math.fsum(one.seconds or 0.0 for _, one in every) - math.fsum(one.seconds or 0.0 for one in once),
    )


def _trainings(config: ExperimentConfig) -> list[ExperimentConfig]:
    """The runs whose trained networks an experiment needs: its own, and the one that it starts from."""
    earlier = [] if config.pretraining is None else [pretraining_run(config)]
    return [run for run in (*earlier, config) if run.train.max_steps]


def _nearest(
    work: Work, known: Iterable[tuple[Work, T]], ratio_to: Callable[[Work], float | None]
) -> tuple[T, float] | None:
    """What is known of the nearest earlier work, and how many times that this one is."""
    best, least = None, math.inf
    for other, what in known:
        ratio = ratio_to(other)
        if ratio is not None and 1 / NEAR <= ratio <= NEAR and (far := work.distance(other, ratio)) < least:
            best, least = (what, ratio), far
    return best
