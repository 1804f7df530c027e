"""A sweep's own settings, composed apart from its experiments."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from qexp.conf.errors import UserError
from qexp.conf.sweeps import LAUNCHERS, SearchConfig, SweepConfig
from qexp.runner import choices
from qexp.runner.checking import validate
from qexp.runner.overrides import known, parse
from qexp.runner.sweep.space import Space, varied


def gone_on(before: Sequence[str], given: Sequence[str]) -> list[str]:
    """The settings of a sweep that goes on: those of ``before``, but none of its launcher where another is given."""
    another = any(text.startswith("launcher=") for text in given)
    return [*(text for text in before if not (another and text.startswith("launcher"))), *given]


def compose_settings(overrides: Sequence[str]) -> SweepConfig:
    """The checked settings of a sweep. Raises ``UserError`` for an unknown launcher or key, or a wrong value."""
    values = parse(overrides).values
    chosen = [known("launcher", str(value.value)) for value in values if value.key == "launcher"]
    launcher = chosen[-1] if chosen else choices.default_choices("sweep")["launcher"]
    tree = choices.top("sweep") | {"launcher": choices.choice("launcher", launcher)}
    for value in values:
        if "." in value.key and not value.delete:
            choices.merged(tree, _nested(value.key.split("."), value.value))
        elif value.key != "launcher":
            raise UserError(f"{value.key}: write launcher=NAME, launcher.KEY=VALUE or sweep.KEY=VALUE")
    return SweepConfig(
        validate(LAUNCHERS[launcher], tree["launcher"], "launcher"), validate(SearchConfig, tree["sweep"], "sweep")
    )


def check_search(search: SearchConfig, space: Space) -> None:
    """Raise ``UserError`` for settings of a search that do not fit each other or the keys that are searched."""
    if search.search == "grid":
        unused = [f"sweep.{key}" for key in ("trials", "setting", "prune") if getattr(search, key)]
        if unused:
            raise UserError(
                f"{unused[0]}: a grid runs all its cells; choose sweep.search=random or sweep.search=optuna"
            )
        return
    if search.trials is None:
        raise UserError(f"sweep.search={search.search} needs sweep.trials=N, the number of cells")
    if not varied(space):
        raise UserError(f"sweep.search={search.search}: nothing to search; give a key values (a,b) or interval(a,b)")
    if search.prune and search.search != "optuna":
        raise UserError("sweep.prune=true needs sweep.search=optuna")
    require_library(search)


def require_library(search: SearchConfig | None) -> None:
    """Raise ``UserError`` where a search needs Optuna and it is not installed."""
    if search is not None and search.search == "optuna" and find_spec("optuna") is None:
        raise UserError("sweep.search=optuna needs Optuna: pip install 'qexp[optuna]'")


def check_continuation(search: SearchConfig, planned: SearchConfig | None) -> None:
    """Raise ``UserError`` where settings given to a sweep that goes on would make it another one."""
    before = planned or SearchConfig()
    if search.trials is not None and before.search != "optuna":
        raise UserError("sweep.trials: these cells are planned; `qexp sweep` with more trials has them too, and more")
    for key in ("search", "seed", "setting", "prune"):
        given = getattr(search, key)
        if given != getattr(before, key) and given != getattr(SearchConfig(), key):
            raise UserError(f"sweep.{key}: a sweep goes on as it was planned; another one is `qexp sweep` with it")
    if search.trials is not None and search.trials < (before.trials or 0):
        raise UserError(f"sweep.trials={search.trials}: this search has {before.trials} already; give more")


def _nested(path: Sequence[str], value: Any) -> dict[str, Any]:
    """``value`` below the keys of ``path``."""
    return {path[0]: _nested(path[1:], value) if path[1:] else value}
