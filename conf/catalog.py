"""Which choices there are, read from the YAML files' names and header comments: no Hydra, no YAML parser, no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path

GROUPS = ("method", "model", "task", "quant", "train", "scale", "tracking")
"""Groups of one experiment, in the order in which they are shown."""
SWEEP_GROUPS = ("launcher",)
"""Groups of a sweep's own settings."""
SWEEP_SETTINGS = ("launcher", "sweep")
"""Top-level keys of a sweep's own settings, beside those of its experiments."""
SCALES = ("smoke", "small", "medium", "paper")
_COMMAND = re.compile(r"^`?(qexp [a-z]+\b[^`]*)`?$")


@dataclass(frozen=True)
class Entry:
    """One choice of a group: what it is in a line, and the command that tries it."""

    name: str
    about: str
    command: str


def folder(group: str) -> Path:
    return Path(__file__).parent / group


@cache
def choices(group: str) -> tuple[str, ...]:
    """Names that ``group=`` takes, and of tables ``<paper>/<table>``; scales from the smallest up, the rest sorted."""
    root = folder(group)
    names = sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))
    return tuple(sorted(names, key=SCALES.index)) if group == "scale" else tuple(names)


def entry(group: str, name: str) -> Entry:
    """Read a choice's header comment: the line with the command, and the first sentence of the rest."""
    about: list[str] = []
    command = ""
    for line in (folder(group) / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            about = about or [line.partition("title:")[2].strip()]
            break
        text = line.lstrip("#").strip()
        if not command and (found := _COMMAND.match(text)):
            command = found.group(1).strip()
        elif text:
            about.append(text)
    return Entry(name, _first_sentence(" ".join(about)), command or f"qexp run {group}={name}")


def _first_sentence(text: str) -> str:
    return re.split(r"(?<!\beq)(?<!\bfig)[.;]\s", text, maxsplit=1)[0].rstrip(".;")


def did_you_mean(word: str, options: tuple[str, ...] | list[str]) -> str:
    """``"; did you mean x?"`` with the nearest of the options, or nothing when none is near."""
    near = get_close_matches(word, options, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""
