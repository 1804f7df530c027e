"""Pictures of what methods measured of themselves, chosen by the ``kind`` that an analysis names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qexp.conf.errors import UserError
from qexp.results.kurtosis_plot import draw_kurtosis
from qexp.results.scale_curves import draw_scale_curves
from qexp.results.scale_plot import draw_scales
from qexp.results.split_plot import draw_split

KINDS: dict[str, Callable[[Mapping[str, Any], Path, str], None]] = {
    "outlier_split": draw_split,
    "scale_curves": draw_scale_curves,
    "tensor_scales": draw_scales,
    "weight_kurtosis": draw_kurtosis,
}
"""Kind of an analysis -> what draws it into a PNG file under a title."""


def draw(analysis: Mapping[str, Any], folder: Path, title: str) -> dict[str, str]:
    """Draw a record's ``analysis`` into ``folder``: what was drawn (``outlier_int8``, the method) -> file name.

    Raises:
        UserError: if ``folder`` cannot be written.
    """
    written = {}
    try:
        for method, found in analysis.items():
            if (draw_one := KINDS.get(found.get("kind"))) is not None:
                folder.mkdir(parents=True, exist_ok=True)
                draw_one(found, folder / f"{method}.png", f"{title}: {method}")
                written[method] = f"{method}.png"
    except OSError as error:
        raise UserError(f"cannot write pictures to {folder}: {error.strerror}") from error
    return written
