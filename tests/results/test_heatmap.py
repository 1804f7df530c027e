from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qexp.conf.errors import UserError
from qexp.results.heatmap import outlier_dims, write_heatmaps


def outliers(roles: tuple[str, ...], layers: int = 3, width: int = 48) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    sites: dict[str, Any] = {"embeddings.sum": {"role": "embeddings.sum", "layer": None, "max_abs": 1.0, "std": 1.0}}
    for layer in range(layers):
        for role in roles:
            values = generator.uniform(1.0, 2.0, width)
            values[7] = 150.0
            site = {"role": role, "layer": layer, "max_abs": 150.0, "std": 1.0, "per_dim_max": values.tolist()}
            sites[f"layers.{layer}.{role}"] = site
    return {"summary": {"inf_norm_roles": ["ffn_output"]}, "sites": sites}


def test_one_overview_and_one_picture_a_role(tmp_path: Path) -> None:
    written = write_heatmaps(outliers(("query", "attention_output", "ffn_output")), tmp_path / "new", "a model")
    assert written == {
        "heatmap": "heatmap.png",
        "heatmap.attention_output": "heatmap_attention_output.png",
        "heatmap.ffn_output": "heatmap_ffn_output.png",
    }
    for name in written.values():
        assert (tmp_path / "new" / name).read_bytes().startswith(b"\x89PNG")


def test_the_same_statistics_give_the_same_bytes(tmp_path: Path) -> None:
    found = outliers(("ffn_output",), width=2000)
    for folder in ("a", "b"):
        write_heatmaps(found, tmp_path / folder, "a model")
    assert (tmp_path / "a" / "heatmap_ffn_output.png").read_bytes() == (
        tmp_path / "b" / "heatmap_ffn_output.png"
    ).read_bytes()


def test_the_dimensions_that_stand_out_the_most_extreme_first() -> None:
    values = np.ones((4, 100))
    values[2, 30], values[0, 99], values[3, 5] = 50.0, 80.0, 5.0
    assert outlier_dims(values) == [99, 30]
    assert outlier_dims(np.ones((2, 9))) == []
    assert outlier_dims(np.zeros((2, 9))) == []


@pytest.mark.parametrize("value", [0.0, float("nan"), None])
def test_statistics_that_give_no_picture_do_no_harm(tmp_path: Path, value: float | None) -> None:
    found = outliers(("ffn_output",))
    for site in found["sites"].values():
        site.pop("per_dim_max", None)
        site.update(std=value, max_abs=value)
    assert write_heatmaps(found, tmp_path, "dead") == {"heatmap": "heatmap.png"}
    assert write_heatmaps({"summary": {}, "sites": {}}, tmp_path, "nothing") == {}


def test_a_folder_that_cannot_be_made_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write pictures"):
        write_heatmaps(outliers(("ffn_output",)), tmp_path / "file" / "below", "a model")
