"""What a finished cell costs when it is asked for again: the whole command, interpreter start included.

Run with: python benchmarks/finished_cell.py
"""

from __future__ import annotations

import subprocess
import tempfile
from functools import partial

from measure import Report, absolute, by_turns
from startup import QEXP, command_seconds

CELL = ["model=tiny_bert", "task=pydocs_labels", "scale=smoke", "tracking=none"]


def measure(turns: int = 7) -> Report:
    with tempfile.TemporaryDirectory() as folder:
        command = [QEXP, "run", *CELL, f"results_dir={folder}", "--quiet"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        figures = by_turns({"again": partial(command_seconds, command)}, turns, warmup=0)
    return Report([absolute("a finished cell asked for again", figures["again"], "none: the whole command", 1.0)])


if __name__ == "__main__":
    print(*measure().results, sep="\n")
