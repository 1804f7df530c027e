"""The picture of tensors' scales: deterministic, and drawn whatever is missing or zero."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qexp.results.pictures import draw

SCALES = {
    "wte": {"weight": 1.0, "activation": 0.98, "gradient": 2.4, "weight_gradient": 12.0},
    "ln_f": {"activation": 1.0, "gradient": 0.0, "weight_gradient": 1.1, "bias_gradient": 1.5},
}


def analysis(**more: Any) -> dict[str, Any]:
    return {"unit_scaling": {"kind": "tensor_scales", "band": [0.1, 10.0], "initial": SCALES, **more}}


def test_the_same_scales_are_the_same_picture(tmp_path: Path) -> None:
    casting = {"exponents": [-1, 0, 1], "snr_db": {"FP16": [73.5, 73.6, None], "FP8 E4": [31.0, 31.0, 30.0]}}
    cast = {"underflow": 0.25, "overflow": 0.5}
    lost = {"wte": {"weight": {"std": 1.0, "fp16": cast, "fp8": cast}}, "ln_f": {"gradient": {"std": 0.0}}}
    for folder in ("a", "b"):
        written = draw(analysis(casting=casting, scales=lost), tmp_path / folder, "tiny_gpt2 on wikitext2")
        assert written == {"unit_scaling": "unit_scaling.png"}
    first, second = ((tmp_path / folder / "unit_scaling.png").read_bytes() for folder in ("a", "b"))
    assert first == second and first.startswith(b"\x89PNG")


def test_after_training_it_has_a_second_panel(tmp_path: Path) -> None:
    draw(analysis(), tmp_path / "one", "a model")
    draw(analysis(trained={"wte": {"weight": 1.1, "activation": 1.2}}), tmp_path / "two", "a model")
    one, two = (int.from_bytes((tmp_path / f / "unit_scaling.png").read_bytes()[16:20], "big") for f in ("one", "two"))
    assert two > one
