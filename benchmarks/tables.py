"""Markdown tables of docs/performance.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def faster(ratios: Sequence[float]) -> str:
    """How many times faster, one figure for each number of threads."""
    return " / ".join(f"{ratio:.2f}" if ratio < 9.95 else f"{ratio:.0f}" for ratio in ratios)
