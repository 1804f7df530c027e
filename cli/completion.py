"""Completion of overrides in the shell: group names, and the choices of a group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import typer

from qexp.conf.catalog import GROUPS, SWEEP_GROUPS, choices


def complete_override(ctx: typer.Context, incomplete: str) -> list[str]:
    """What ``incomplete`` may become, for typer: the words before it are the command's argument so far."""
    before = next((value for value in ctx.params.values() if isinstance(value, (list, tuple))), ())
    groups = (*GROUPS, *SWEEP_GROUPS) if ctx.info_name == "sweep" else GROUPS
    return completions([str(word) for word in before], incomplete, groups)


def completions(before: Sequence[str], incomplete: str, groups: Sequence[str] = GROUPS) -> list[str]:
    """Bash splits ``method=ga`` into ``method``, ``=``, ``ga``, and typer drops a last ``=``; others do neither."""
    if len(before) > 1 and before[-1] == "=" and before[-2] in groups:
        return [name for name in choices(before[-2]) if name.startswith(incomplete)]
    if incomplete in ("", "=") and before and before[-1] in groups:
        return list(choices(before[-1]))
    return list(_overrides(incomplete, groups))


def _overrides(incomplete: str, groups: Sequence[str]) -> Iterator[str]:
    group, equals, start = incomplete.partition("=")
    if equals:
        yield from (f"{group}={name}" for name in (choices(group) if group in groups else ()) if name.startswith(start))
    else:
        yield from (f"{name}=" for name in groups if name.startswith(group))
