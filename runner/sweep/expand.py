"""Hydra's sweep syntax: overrides with several values become the overrides of every cell."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from qexp.conf.errors import UserError
from qexp.runner.rerun import quoted
from qexp.runner.sweep.space import Interval, Space, Values

MOST_CELLS = 10_000


def axes(overrides: Sequence[str]) -> dict[str, Values | Interval]:
    """Key -> every override that the sweep gives it: ``seed=1,2`` is ``("seed=1", "seed=2")``. Later ones win.

    ``a,b``, ``choice(a,b)`` and ``range(0,5)`` are several values, ``interval(0,1)`` is all between; ``[a,b]`` is one
    value, a list. Nothing else of qexp knows how Hydra parses a sweep. Raises ``UserError`` for what cannot be read.
    """
    found: dict[str, Values | Interval] = {}
    for text in overrides:
        try:
            override = OverridesParser.create().parse_override(text)
            found[override.key_or_group] = _axis(text, override)
        except HydraException as error:
            raise UserError(
                f"{text}: not an override; write key=value, or several values as key=a,b or key='range(0,5)'"
            ) from error
    return found


def _axis(text: str, override: Override) -> Values | Interval:
    if override.is_interval_sweep():
        return _interval(text, override)
    if not override.is_sweep_override():
        return (text,)
    values = itertools.islice(override.sweep_string_iterator(), MOST_CELLS + 1)
    texts = tuple(f"{override.get_key_element()}={value}" for value in values)
    if not texts:
        raise UserError(f"{text}: no value at all; a range ends before its last number")
    return texts


def _interval(text: str, override: Override) -> Interval:
    value: Any = override.value()
    log = "log" in value.tags
    if not value.start < value.end or (log and value.start <= 0):
        raise UserError(f"{text}: an interval ends above its start, and one with tag(log, ...) starts above 0")
    whole = isinstance(value.start, int)  # int(interval(1,8))
    return Interval(override.get_key_element(), value.start, value.end, log, whole)


def expand(space: Space) -> list[Values]:
    """The overrides of every cell: all combinations, the first key varying slowest."""
    by_key: list[Values] = []
    for key, axis in space.items():
        if isinstance(axis, Interval):
            raise UserError(
                f"{key}: a grid cannot have every number of an interval; sweep.search=random sweep.trials=20 draws 20 "
                f"cells, or list the values as {key}=a,b"
            )
        by_key.append(axis)
    if (number := math.prod(map(len, by_key))) > MOST_CELLS:
        raise UserError(f"a sweep of {number} cells or more; at most {MOST_CELLS} are planned at once")
    return list(itertools.product(*by_key))


def read_file(path: Path) -> list[str]:
    """The overrides of a sweep file: a YAML mapping from key to value.

    A text is what stands right of ``=`` on the command line (``a,b``, ``range(0,5)``); a list is one value.
    Raises ``UserError`` for a file that is no such mapping.
    """
    import yaml

    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{path}: write one `key: value` a line, like `seed: range(0,5)` or `method: vanilla,ptq`")
    return [f"{key}={value if isinstance(value, str) else quoted(value)}" for key, value in content.items()]
