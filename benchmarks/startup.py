"""What starting costs: ``qexp --help`` and ``qexp list methods`` against ``python -c pass``.

Run with: python benchmarks/startup.py
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

from measure import Report, by_turns, difference, seconds

QEXP = str(Path(sys.executable).parent / "qexp")
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "qexp --help": [QEXP, "--help"],
    "qexp list methods": [QEXP, "list", "methods"],
}


def command_seconds(command: list[str]) -> float:
    return seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))


def measure(turns: int = 11) -> Report:
    candidates = {name: partial(command_seconds, command) for name, command in COMMANDS.items()}
    figures = by_turns(candidates, turns)
    base = figures.pop("python -c pass")
    return Report([difference(f"`{name}`", figures[name], base, "`python -c pass`", 0.4) for name in figures])


if __name__ == "__main__":
    print(*measure().results, sep="\n")
