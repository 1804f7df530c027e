from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qexp.results.kurtosis_plot import draw_kurtosis
from qexp.results.pictures import draw


def tensor(before: float | None, after: float | None, selected: bool = True, share: float = 0.0) -> dict[str, Any]:
    return {"before": before, "after": after, "selected": selected, "share": share}


def kurtoses() -> dict[str, Any]:
    tensors = {f"layers.{i}.query_weight": tensor(3.0 + i, 1.9) for i in range(6)}
    tensors["layers.0.ffn_output_weight"] = tensor(1585.0, 1500.0, False, 0.9)
    return {"kind": "weight_kurtosis", "target": 1.8, "tensors": tensors}


def test_an_analysis_becomes_a_picture_named_after_its_method(tmp_path: Path) -> None:
    assert draw({"kurtosis_qat": kurtoses(), "silent": {}}, tmp_path / "new", "a model") == {
        "kurtosis_qat": "kurtosis_qat.png"
    }
    assert (tmp_path / "new" / "kurtosis_qat.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_analysis_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        draw_kurtosis(kurtoses(), tmp_path / name, "a model")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"dead": tensor(None, None, False)},
        {"died": tensor(3.0, None, share=1.0)},
        {"kept": tensor(3.0, 2.0)},
        {"dropped": tensor(9.0, 9.0, False)},
    ],
    ids=lambda tensors: next(iter(tensors), "none"),
)
def test_tensors_without_a_figure_do_no_harm(tmp_path: Path, tensors: dict[str, Any]) -> None:
    draw_kurtosis({"target": 1.8, "tensors": tensors}, tmp_path / "k.png", "tiny")
    assert (tmp_path / "k.png").stat().st_size
