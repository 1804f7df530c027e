"""A sweep's own settings, composed apart from its experiments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qexp.conf.errors import UserError
from qexp.conf.sweeps import LAUNCHERS, SETTINGS, SearchConfig, SweepConfig
from qexp.runner import choices
from qexp.runner.checking import validate
from qexp.runner.overrides import known, parse


def split(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides of the experiments, and those of the sweep itself (``launcher=…``, ``sweep.…=…``)."""
    own = [text for text in overrides if text.lstrip("+~").partition("=")[0].partition(".")[0] in SETTINGS]
    return [text for text in overrides if text not in own], own


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


def _nested(path: Sequence[str], value: Any) -> dict[str, Any]:
    """``value`` below the keys of ``path``."""
    return {path[0]: _nested(path[1:], value) if path[1:] else value}
