"""The same search as a W&B sweep: W&B chooses the cells, and its agents run each as ``qexp run``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from qexp.conf.errors import RunError, UserError
from qexp.conf.sweeps import SearchConfig
from qexp.runner.sweep.expand import axes
from qexp.runner.sweep.folder import SweepFolder
from qexp.runner.sweep.objective import lower_is_better, settled
from qexp.runner.sweep.plan import SweepPlan
from qexp.runner.sweep.space import Interval, Values
from qexp.runner.wandb_account import require_wandb, wandb_login

METHODS = {"grid": "grid", "random": "random", "optuna": "bayes"}
"""Our searches by W&B's names. Its Bayesian search is W&B's own, not Optuna's."""
SECONDS_TO_REGISTER = 120


def wandb_config(plan: SweepPlan) -> dict[str, Any]:
    """What W&B calls a sweep configuration. Raises ``UserError`` for an interval that W&B has no word for."""
    from qexp.runner.tasks import primary_metric

    example = plan.cells[0].config
    task = example["task"]
    search = plan.search or settled(SearchConfig(), [example])
    space = axes(plan.overrides)
    fixed = [axis[0] for axis in space.values() if not isinstance(axis, Interval) and len(axis) == 1]
    tracking = example["tracking"]
    return {
        "program": "qexp",
        "name": f"qexp {plan.sweep_id[:8]}",
        "project": tracking["project"],
        **({"entity": tracking["entity"]} if tracking["entity"] else {}),
        "method": METHODS[search.search],
        "metric": {
            "name": f"{search.setting}/{primary_metric(task['kind'], task['subset'])}",
            "goal": "minimize" if lower_is_better(example) else "maximize",
        },
        **({"run_cap": search.trials} if search.trials else {}),
        "parameters": {
            key: _parameter(axis) for key, axis in space.items() if isinstance(axis, Interval) or len(axis) > 1
        },
        "command": ["${env}", "qexp", "run", *fixed, f"results_dir={plan.results_dir}", "${args_no_hyphens}"],
    }


def _parameter(axis: Values | Interval) -> dict[str, Any]:
    if not isinstance(axis, Interval):
        return {"values": [_number(text.partition("=")[2]) for text in axis]}
    if axis.whole and axis.log:
        raise UserError(f"{axis.element}: W&B has no whole numbers on a logarithmic scale; list them, as 1,2,4,8")
    kind = "int_uniform" if axis.whole else "log_uniform_values" if axis.log else "uniform"
    return {"distribution": kind, "min": axis.low, "max": axis.high}


def _number(text: str) -> int | float | str:
    """Numbers as such: Bayesian search knows their order then. Any other value is the text that ``qexp run`` takes."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def write_wandb(folder: SweepFolder) -> Path:
    """Write ``<sweep>/wandb.yaml``."""
    import yaml

    path = folder.path / "wandb.yaml"
    path.write_text(yaml.safe_dump(wandb_config(folder.plan), sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


def register(path: Path) -> str | None:
    """Make the sweep known to W&B; the command that starts an agent. None without a login.

    Raises ``RunError`` with what W&B said where it refuses or cannot be reached.
    """
    if wandb_login() is None:
        return None
    require_wandb()
    command = [sys.executable, "-m", "wandb", "sweep", str(path)]
    environment = {key: value for key, value in os.environ.items() if key != "WANDB_MODE"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_TO_REGISTER, env=environment)
    except subprocess.TimeoutExpired:
        raise RunError(f"W&B did not answer in {SECONDS_TO_REGISTER} s; later: wandb sweep {path}") from None
    said = done.stdout + done.stderr
    if (found := re.search(r"wandb agent \S+", said)) is None:
        reason = next((line for line in reversed(said.strip().splitlines()) if line.strip()), "it said nothing")
        raise RunError(f"W&B did not take the sweep ({reason.strip()}); later: wandb sweep {path}")
    return found[0]
