"""The cells that a search has proposed so far: one file each, ``<sweep>/trials/<number>.json``, never changed."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from qexp.runner.sweep.plan import Cell, cell_from


class Trials:
    """The trials in ``folder``, each read once."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._known: dict[int, Cell] = {}

    def read(self) -> dict[int, Cell]:
        """Number -> cell, in the order of the numbers. Two trials may propose one cell."""
        for path in self._folder.glob("*.json"):
            if path.stem.isdigit() and int(path.stem) not in self._known:
                with suppress(OSError, ValueError, KeyError, TypeError):
                    self._known[int(path.stem)] = cell_from(json.loads(path.read_text(encoding="utf-8")))
        return dict(sorted(self._known.items()))

    def write(self, number: int, cell: Cell) -> None:
        """Keep a trial, all of it or nothing."""
        self._folder.mkdir(exist_ok=True)
        temporary = self._folder / f".{number}.{os.getpid()}.tmp"
        temporary.write_text(json.dumps(asdict(cell), ensure_ascii=False), encoding="utf-8")
        os.replace(temporary, self._folder / f"{number}.json")
