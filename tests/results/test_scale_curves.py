"""Scales over the steps of a training: their ends in words, and a picture whatever is missing or zero."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qexp.results.pictures import draw
from qexp.results.scale_curves import courses, in_words

SCALES: dict[str, Any] = {
    "kind": "scale_curves",
    "band": [0.1, 10.0],
    "steps": [0, 50, 99],
    "tensors": {
        "wte": {"weight": [1.0, 1.1, 1.2], "gradient": [2e-9, 0.0, 3e-9]},
        "ln_f": {"activation": [None, 12.0, 0.5], "gradient": [1.0, None, 0.25]},
        "lm_head": {"bias_gradient": [None, None, None]},
    },
}


def test_courses_leave_out_what_is_not_known() -> None:
    found = courses(SCALES)
    assert list(found) == ["weight", "activation", "gradient"]
    (norm,) = found["activation"]
    assert norm.points == ((50, 12.0), (99, 0.5)) and (norm.lowest, norm.highest) == ((99, 0.5), (50, 12.0))
    assert found["weight"][0].stays_within(SCALES["band"]) and not norm.stays_within(SCALES["band"])


def test_words_name_both_ends_and_how_many_stay_within_the_band() -> None:
    assert dict(in_words(SCALES)) == {
        "weights": "1 to 1 at step 0, 1.2 to 1.2 at step 99; 1 of 1 always within 0.1 to 10",
        "activations": "12 to 12 at step 50, 0.5 to 0.5 at step 99; 0 of 1 always within 0.1 to 10",
        "gradients of activations": "2e-09 to 1 at step 0, 3e-09 to 0.25 at step 99; 1 of 2 always within 0.1 to 10",
    }


def test_they_are_drawn_with_gaps_and_zeros(tmp_path: Path) -> None:
    noise = {"exponents": [-1, 0, 1], "snr_db": {"FP16": [73.5, 73.6, None], "FP8 E4": [31.0, 31.0, 30.0]}}
    assert draw({"scales": SCALES | {"casting": noise}}, tmp_path, "x") == {"scales": "scales.png"}
    assert (tmp_path / "scales.png").read_bytes().startswith(b"\x89PNG")


def test_a_single_point_of_a_single_tensor_is_drawn(tmp_path: Path) -> None:
    one = SCALES | {"steps": [0], "tensors": {"wte": {"weight": [1.0]}}}
    assert draw({"scales": one}, tmp_path, "x") == {"scales": "scales.png"}
