"""What a key of a sweep may be: some values, or any number of an interval; and random draws of all keys."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

DRAWS_WITHOUT_NEWS = 10_000
"""So many draws in a row that were drawn before: there are no others."""

Values = tuple[str, ...]
"""Whole overrides: ``("seed=1", "seed=2")``. One is a key that does not vary."""


@dataclass(frozen=True)
class Interval:
    """Any number from ``low`` to ``high``; ``log``: every order of magnitude is as likely; ``whole`` numbers only."""

    element: str
    """What stands left of ``=``."""
    low: float
    high: float
    log: bool = False
    whole: bool = False

    def __str__(self) -> str:
        kinds = [kind for kind, holds in (("whole", self.whole), ("log-uniform", self.log)) if holds]
        return ", ".join([f"{self.low:g} to {self.high:g}", *kinds])

    def override(self, value: float) -> str:
        """To six digits: so that it can be typed again, and is the same cell then."""
        return f"{self.element}={round(value) if self.whole else float(f'{value:.6g}')!r}"

    def at(self, share: float) -> float:
        """The number with ``share`` (from 0 to below 1) of the interval's probability below it."""
        if self.whole and not self.log:
            return self.low + math.floor(share * (self.high - self.low + 1))
        if self.log:
            return self.low * math.pow(self.high / self.low, share)
        return self.low + share * (self.high - self.low)


Space = Mapping[str, Values | Interval]
"""Key -> what it may be, in the order in which the user named them."""


def varied(space: Space) -> tuple[int, ...]:
    """Places of the keys that may be more than one thing."""
    return tuple(place for place, axis in enumerate(space.values()) if isinstance(axis, Interval) or len(axis) > 1)


def described(space: Space) -> dict[str, str]:
    """Key -> what it may be, in words, of the keys that vary."""
    axes = [(key, axis) for place, (key, axis) in enumerate(space.items()) if place in varied(space)]
    return {key: str(axis) if isinstance(axis, Interval) else ", ".join(map(_value, axis)) for key, axis in axes}


def _value(override: str) -> str:
    return override.partition("=")[2]


def first(space: Space) -> Values:
    """The overrides of one cell: the first value of each key, the lower end of each interval."""
    return tuple(axis.override(axis.low) if isinstance(axis, Interval) else axis[0] for axis in space.values())


def draw(space: Space, trials: int, seed: int) -> list[Values]:
    """The overrides of ``trials`` different cells, all keys drawn independently; every one where there are no more.

    The first of many draws are those of few: a search with more trials keeps what it has.
    """
    # random() is the one part of Random that Python promises never to change
    generator = random.Random(seed)
    axes = [axis if isinstance(axis, Interval) else tuple(sorted(axis)) for axis in space.values()]  # undoes shuffle()
    found: dict[Values, None] = {}
    since_news = 0
    while len(found) < trials and since_news < DRAWS_WITHOUT_NEWS:
        known = len(found)
        found[tuple(_drawn(axis, generator.random()) for axis in axes)] = None
        since_news = since_news + 1 if len(found) == known else 0
    return list(found)


def _drawn(axis: Values | Interval, share: float) -> str:
    return axis.override(axis.at(share)) if isinstance(axis, Interval) else axis[int(share * len(axis))]
