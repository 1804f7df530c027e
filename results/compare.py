"""Two records, or the settings of one, against each other: by example within a seed, and over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from qexp.conf.errors import UserError
from qexp.conf.identity import VOLATILE_KEYS
from qexp.results.evidence import Counted, by_example
from qexp.results.outcomes import read
from qexp.results.paired import Interval, bootstrap, mcnemar
from qexp.results.rows import NEVER_A_ROW
from qexp.results.schema import ON, Metric, Record
from qexp.results.select import Flat, labelled, text
from qexp.results.statistics import interval, p_at, sign_flips, summarize, welch

FLOAT = "float"


@dataclass(frozen=True)
class Figures:
    """One metric of ``a`` and ``b``. ``difference``: positive where ``b`` is better; of perplexity the logarithm's."""

    setting: str
    """Of ``b``; of ``a`` it is ``beside``."""
    beside: str
    metric: str
    a: float
    b: float
    difference: float
    examples: Counted | None = None
    """``lost`` and ``won`` are ``b``'s."""
    interval: Interval | None = None
    """None where there are no examples to resample, or the metric is none that can be."""
    why_not: str = ""
    """Why there are no examples."""

    @property
    def p(self) -> float | None:
        """Of ``b`` losing and winning examples with the same chance: McNemar's test, or the sign test."""
        return None if self.examples is None else mcnemar(self.examples.lost, self.examples.won)


@dataclass(frozen=True)
class Seeds:
    """The same difference over ``seeds``, at least two: its mean, the 95 % t interval, and p of none by three tests."""

    setting: str
    beside: str
    metric: str
    seeds: tuple[int, ...]
    difference: float
    low: float
    high: float
    p_t: float
    p_sign_flips: float
    p_welch: float | None


def compare(a: Record, b: Record) -> tuple[Figures, ...]:
    """Every setting and metric that both have; of one record with itself, every setting against ``float``.

    Raises:
        UserError: if there is nothing to compare.
    """
    lines = tuple(_figures(a, b, *place) for place in _places(a, b))
    if not lines:
        both = "no setting beside float" if a.cell_id == b.cell_id else "no setting with the same metric"
        raise UserError(f"{a.cell_id[:8]} and {b.cell_id[:8]} have {both}, so there is nothing to compare")
    return lines


def over_seeds(
    a: Record, b: Record, records: Iterable[Record], experiment: Callable[[Record], str]
) -> tuple[Seeds, ...]:
    """:func:`compare` over the seeds at which ``records`` has both experiments, where these are two or more.

    ``experiment``: what is the same for records that differ in their seed alone.
    """
    by_seed: dict[str, dict[int, Record]] = {experiment(one): {} for one in (a, b)}
    for record in records:
        by_seed.get(experiment(record), {})[record.config["seed"]] = record
    sides = [by_seed[experiment(one)] for one in (a, b)]
    shared = sorted(sides[0].keys() & sides[1].keys())
    found = []
    for setting, metric in _places(a, b):
        pairs = {seed: _pair(sides[0][seed], sides[1][seed], setting, metric) for seed in shared}
        whole = {seed: pair for seed, pair in pairs.items() if pair and all(map(math.isfinite, pair))}
        if len(whole) > 1:
            found.append(_seeds(setting, _beside(a, b, setting), metric, whole))
    return tuple(found)


def differing(a: Record, b: Record) -> dict[str, tuple[str, str]]:
    """Which keys of both configurations differ, but for the seed: key -> both values."""
    sides = [_but_for_seed(record) for record in (a, b)]
    both = {key: (text(value), text(sides[1][key])) for key, value in sides[0].items() if key in sides[1]}
    return {key: (one, other) for key, (one, other) in both.items() if one != other}


def _but_for_seed(record: Record) -> Flat:
    flat = labelled(record.config)
    return {k: v for k, v in flat.items() if k not in NEVER_A_ROW and k.split(".")[0] not in VOLATILE_KEYS}


def _places(a: Record, b: Record) -> Iterator[tuple[str, str]]:
    """Setting of ``b`` and metric, of all that can be compared."""
    for setting, by_name in b.metrics.items():
        other = a.metrics.get(_beside(a, b, setting), {})
        if not (a.cell_id == b.cell_id and setting == FLOAT):
            yield from ((setting, name) for name in by_name if name in other)


def _beside(a: Record, b: Record, setting: str) -> str:
    """The setting of ``a`` that is compared with this one of ``b``."""
    return FLOAT if a.cell_id == b.cell_id else setting


def _figures(a: Record, b: Record, setting: str, metric: str) -> Figures:
    beside = _beside(a, b, setting)
    one, other = a.metrics[beside][metric], b.metrics[setting][metric]
    values = (one.value, other.value, _goodness(metric, other) - _goodness(metric, one))
    kept = [read(a, beside, metric), read(b, setting, metric)]
    lacking = [record.cell_id[:8] for record, found in zip((a, b), kept, strict=True) if found is None]
    if kept[0] is None or kept[1] is None:
        why = f"no predictions lie beside {' and '.join(dict.fromkeys(lacking))}"
        return Figures(setting, beside, metric, *values, why_not=why)
    counted = by_example(kept[1], kept[0])
    if counted is None:
        return Figures(setting, beside, metric, *values, why_not="they were evaluated on unlike examples")
    return Figures(setting, beside, metric, *values, counted, bootstrap(metric, kept[1], kept[0]))


def _goodness(metric: str, figure: Metric) -> float:
    """The figure, larger where better; of perplexity its logarithm."""
    value = math.log(figure.value) if metric.partition(ON)[0] == "perplexity" else figure.value
    return value if figure.higher_is_better else -value


def _pair(a: Record, b: Record, setting: str, metric: str) -> tuple[float, float] | None:
    places = (a.metrics.get(_beside(a, b, setting), {}), b.metrics.get(setting, {}))
    if any(metric not in by_name for by_name in places):
        return None
    return _goodness(metric, places[0][metric]), _goodness(metric, places[1][metric])


def _seeds(setting: str, beside: str, metric: str, pairs: Mapping[int, tuple[float, float]]) -> Seeds:
    differences = [b - a for a, b in pairs.values()]
    found = summarize(differences)
    sides = list(zip(*pairs.values(), strict=True))
    flips = sign_flips(differences)
    p = p_at(found, 0.0) if any(differences) else 1.0
    return Seeds(setting, beside, metric, tuple(pairs), found.mean, *interval(found), p, flips, welch(*sides))
