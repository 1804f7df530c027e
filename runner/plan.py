"""Tables as plans: which experiments a table is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from qexp.conf.errors import UserError
from qexp.conf.schema import ExperimentConfig
from qexp.conf.tables import ColumnConfig, RowConfig, TableConfig
from qexp.runner.choices import read_yaml
from qexp.runner.compose import compose
from qexp.runner.identity import cell_id
from qexp.runner.overrides import parse, replace

Place = tuple[int, int, int]
"""Seed, column and row of a table's cell."""


def table_names() -> tuple[str, ...]:
    """Names of all table specifications, ``<paper>/<table>``, sorted."""
    return _names(_root())


@cache
def _names(root: Path) -> tuple[str, ...]:
    return tuple(sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml")))


def load_table(name: str) -> TableConfig:
    """The specification ``conf/table/<name>.yaml``.

    Raises:
        UserError: for a name that no table has, and for a specification that does not fit ``TableConfig``.
    """
    if name not in table_names():
        near = get_close_matches(name, table_names(), n=3, cutoff=0.3) or table_names()
        raise UserError(f"unknown table '{name}'; tables: {', '.join(near)} (qexp list tables shows all)")
    try:
        return _checked(_root() / f"{name}.yaml")
    except ValidationError as error:
        first = error.errors()[0]
        where = ": ".join(filter(None, [f"table {name}", ".".join(map(str, first["loc"]))]))
        raise UserError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None


@cache
def _checked(path: Path) -> TableConfig:
    return _adapter().validate_python(read_yaml(path))


@cache
def _adapter() -> TypeAdapter[TableConfig]:
    return TypeAdapter(TableConfig)


def plan(name: str, overrides: Sequence[str] = (), seeds: Sequence[int] | None = None) -> list[ExperimentConfig]:
    """Every experiment of a table once, seeds first, then columns and rows; ``overrides`` apply to all and win.

    Cells of a grid that show different figures of one experiment share it.
    """
    return list(by_id(cells(name, overrides, seeds)).values())


def by_id(found: Mapping[Place, ExperimentConfig]) -> dict[str, ExperimentConfig]:
    """Each experiment of the cells once, by its cell id, in their order."""
    apart = {id(config): config for config in found.values()}
    return {cell_id(config): config for config in apart.values()}


def ids(found: Mapping[Place, ExperimentConfig]) -> dict[Place, str]:
    """The cell id of every place; one that many cells share is computed once."""
    known = {id(config): cell_id(config) for config in {id(config): config for config in found.values()}.values()}
    return {place: known[id(config)] for place, config in found.items()}


def cells(
    name: str, overrides: Sequence[str] = (), seeds: Sequence[int] | None = None
) -> dict[Place, ExperimentConfig]:
    """The experiment of every seed, column and row of a table; a list of experiments has one column.

    Nothing of a configuration but its seed depends on that, so each cell is composed once; places with the same
    overrides have the same object.
    Raises ``UserError`` that names the cell for one that does not compose.
    """
    spec = load_table(name)
    composed: dict[tuple[str, ...], ExperimentConfig] = {}
    seeded: dict[tuple[str, ...], ExperimentConfig] = {}
    found: dict[Place, ExperimentConfig] = {}
    for (seed, x, y), given in _given(name, spec, overrides, seeds).items():
        if given[:-1] not in composed:
            composed[given[:-1]] = _cell(name, spec.rows[y].title, given)
        if given not in seeded:
            seeded[given] = dataclasses.replace(composed[given[:-1]], seed=seed)
        found[seed, x, y] = seeded[given]
    return found


def overrides_of(
    name: str, overrides: Sequence[str] = (), seeds: Sequence[int] | None = None
) -> dict[Place, tuple[str, ...]]:
    """What composes the experiment of every seed, column and row; the seed stands last.

    The seed is the experiment's own, which ``seed=`` among the ``overrides`` decides: one run is never several seeds.
    """
    return _given(name, load_table(name), overrides, seeds)


def _given(
    name: str, spec: TableConfig, overrides: Sequence[str], seeds: Sequence[int] | None
) -> dict[Place, tuple[str, ...]]:
    asked = parse(overrides)
    own = [value.value for value in asked.values if value.key == "seed" and not value.delete]
    scale = asked.groups.get("scale", "small")
    found = {}
    for seed in own[-1:] or seeds or spec.seeds:
        for x, column in enumerate(spec.columns or (ColumnConfig(""),)):
            for y, row in enumerate(spec.rows):
                given = overrides_at(scale, spec, row, column)
                found[seed, x, y] = (*given, f"table={folder_of(name)}", *overrides, f"seed={seed}")
    return found


def overrides_at(scale: str, spec: TableConfig, row: RowConfig, column: ColumnConfig) -> list[str]:
    """What is overridden in a cell: of the table, the row and the column, each with its ``scales`` on top."""
    parts = ((spec.common, spec.scales), (row.overrides, row.scales), (column.overrides, column.scales))
    return [text for own, scales in parts for text in replace(own, scales.get(scale, ()))]


def _cell(name: str, row: str, overrides: Sequence[str]) -> ExperimentConfig:
    try:
        return compose(overrides)
    except UserError as error:
        raise UserError(f"table {name}, row {row}: {error}") from None


def folder_of(name: str) -> str:
    """The folder below ``results_dir`` that holds a table's records: ``<paper>.<table>``."""
    return name.replace("/", ".")


def _root() -> Path:
    return Path(str(files("qexp.conf"))) / "table"
