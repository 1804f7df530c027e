"""A sweep's own settings, composed apart from its experiments."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import OmegaConf

from qexp.conf.errors import UserError
from qexp.conf.sweeps import SETTINGS, SweepConfig
from qexp.runner.checking import validate
from qexp.runner.compose import compose_tree
from qexp.runner.overrides import known, parse


def split(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides of the experiments, and those of the sweep itself (``launcher=…``, ``sweep.…=…``)."""
    own = [text for text in overrides if text.lstrip("+~").partition("=")[0].partition(".")[0] in SETTINGS]
    return [text for text in overrides if text not in own], own


def compose_settings(overrides: Sequence[str]) -> SweepConfig:
    """The checked settings of a sweep. Raises ``UserError`` for an unknown launcher or key, or a wrong value."""
    values = parse(overrides).values
    chosen = [known("launcher", str(value.value)) for value in values if value.key == "launcher"]
    tree = compose_tree("sweep", [f"launcher={chosen[-1]}"] if chosen else [])
    for value in values:
        if "." in value.key and not value.delete:
            OmegaConf.update(tree, value.key, value.value, force_add=True)
        elif value.key != "launcher":
            raise UserError(f"{value.key}: write launcher=NAME, launcher.KEY=VALUE or sweep.KEY=VALUE")
    settings = validate(SweepConfig, OmegaConf.to_container(tree), "")
    assert isinstance(settings, SweepConfig)
    return settings
