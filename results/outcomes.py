"""What every evaluation example contributed to a record's figures: one small file beside it, ``predictions.npz``.

Two networks that were evaluated on the same examples can so be compared example by example, within one seed. The file
is an extra: a record whose file is missing, damaged or could not be written is whole without it.
"""

from __future__ import annotations

import logging
import os
import shutil
import uuid
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from qexp.results.schema import PREDICTIONS, Record, ending_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

Kind = Literal["class", "score", "loss", "answer"]
FILE = "predictions.npz"
UNREADABLE = (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile)
"""What reading a damaged archive may raise."""

log = logging.getLogger("qexp")


@dataclass(frozen=True)
class Outcomes:
    """One network on the examples of one evaluation set, in the set's order.

    ``class``: ``values`` [N] are the predicted classes, ``references`` [N] the true ones. ``score``: predicted and true
    numbers. ``loss``: the summed negative log-likelihood of each window in nats, and how many tokens it predicts.
    ``answer``: F1 of an answer's words, and 1 more where it matches exactly; 2 is what a right one has.
    """

    kind: Kind
    values: NDArray[Any]
    references: NDArray[Any]
    examples: str
    """Fingerprint of the examples and their order: only outcomes that share it may be paired."""


Sets = Mapping[str, Outcomes]
"""By the ending of the set's metric names: nothing for the task's own, ``_mm``, ``@ptb``."""


def write(folder: Path, found: Mapping[str, Sets]) -> dict[str, str]:
    """Keep the outcomes of each setting in ``folder``; the file's entry among the record's ``artifacts``.

    Nothing is kept where there is nothing, or where it cannot be written: that is told in one line.
    """
    import numpy as np

    arrays: dict[str, Any] = {}
    for setting, sets in found.items():
        for ending, one in sets.items():
            arrays[f"{setting}{ending}"] = _compact(one.values)
            arrays[f"references{ending}"] = _compact(one.references)
            arrays[f"examples{ending}"] = np.array([one.kind, one.examples])
    if not arrays:
        return {}
    temporary = folder / f".{FILE}.{uuid.uuid4().hex}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            np.savez_compressed(file, **arrays)
        os.replace(temporary, folder / FILE)
    except OSError as error:
        log.warning("predictions are not kept: cannot write to %s: %s", folder, error.strerror)
        with suppress(OSError):
            temporary.unlink()
        return {}
    return {PREDICTIONS: f"{folder.name}/{FILE}"}


def path_of(record: Record) -> Path | None:
    """Where the record's predictions lie; None where it has none or was not read from a folder."""
    name = record.artifacts.get(PREDICTIONS)
    return None if record.folder is None or name is None else record.folder / name


def copy(record: Record, folder: Path) -> dict[str, str]:
    """Copy the record's predictions, where it has some, and give their entry among the ``artifacts`` there."""
    path = path_of(record)
    if path is None or not path.is_file():
        return {}
    if path.resolve() != (folder / FILE).resolve():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / FILE)
    return {PREDICTIONS: f"{folder.name}/{FILE}"}


def read(record: Record, setting: str, metric: str) -> Outcomes | None:
    """What the examples contributed to one figure; None where that was not kept or cannot be read."""
    path, ending = path_of(record), ending_of(metric)
    if path is None:
        return None
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            if f"{setting}{ending}" not in file:
                return None
            kind, examples = map(str, file[f"examples{ending}"])
            return _checked(kind, file[f"{setting}{ending}"], file[f"references{ending}"], examples)
    except UNREADABLE as error:
        log.debug("predictions of %s cannot be read: %s", record.cell_id, error)
        return None


def _checked(kind: str, values: NDArray[Any], references: NDArray[Any], examples: str) -> Outcomes:
    if kind not in get_args(Kind) or values.ndim != 1 or values.shape != references.shape or not len(values):
        raise ValueError(f"no outcomes: {kind} {values.shape} {references.shape}")
    return Outcomes(kind, values, references, examples)  # type: ignore[arg-type]


def _compact(values: NDArray[Any]) -> NDArray[Any]:
    """Whole numbers in as few bytes as hold the largest, others in float32."""
    import numpy as np

    if values.dtype.kind not in "iu":
        return values.astype(np.float32)
    return values.astype(np.result_type(np.min_scalar_type(values.min()), np.min_scalar_type(values.max())))
