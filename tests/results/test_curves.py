"""The picture of a table's curves: what is drawn, and what has nothing to draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from qexp.conf.errors import UserError
from qexp.conf.tables import TableConfig
from qexp.results.curves import draw_curves
from qexp.results.export import write_reference
from qexp.results.grid import build
from qexp.results.table import Table

CONTENT: dict[str, Any] = {
    "title": "Widths",
    "rows": [{"label": "plain"}, {"label": "ours"}],
    "columns": [{"label": name} for name in ("W4", "W2", "W8")],
    "curves": [{"label": "bits", "points": {"W4": 4, "W2": 2, "W8": 8}, "logarithmic": True}],
}


def made(make: Any, *, records: bool = True, **changes: Any) -> Table:
    spec = TypeAdapter(TableConfig).validate_python({**CONTENT, **changes})
    found = {
        (seed, x, y): make(f"m{y}", seed=seed, float=0.5 + 0.1 * x + 0.01 * y * seed) if records else None
        for seed in (1, 2, 3)
        for x in range(3)
        for y in range(2)
    }
    return build(spec, found, scale="small", command="qexp reproduce x/y")


def test_points_go_from_left_to_right_and_name_their_metric(make: Any, tmp_path: Path) -> None:
    table = made(make)
    (curves,) = table.curves
    assert curves.points == ((2, 1), (4, 0), (8, 2))
    assert curves.metric == next(iter(table.records[0].metrics["float"]))
    draw_curves(table, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_committed_table_holds_its_picture(make: Any, tmp_path: Path) -> None:
    assert tmp_path / "t" / "curves.png" in write_reference(made(make), tmp_path / "t")
    assert not any(path.suffix == ".png" for path in write_reference(made(make, curves=[]), tmp_path / "plain"))


def test_nothing_to_draw_is_one_line(make: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no picture"):
        draw_curves(made(make, curves=[]), tmp_path / "x.png")
    with pytest.raises(UserError, match="no figure to draw yet"):
        draw_curves(made(make, records=False), tmp_path / "x.png")
    with pytest.raises(UserError, match=r"cannot write .*x\.png"):
        draw_curves(made(make), tmp_path / "missing" / "x.png")
    with pytest.raises(ValidationError, match="unknown column 'W3'"):
        made(make, curves=[{"label": "bits", "points": {"W3": 3}}])
