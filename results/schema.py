"""The record: what one experiment leaves behind. Plain data; this package never imports torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

RECORD_VERSION = 1
INTEGER = ".integer"
"""Ending of a setting that was executed in integers: ``w8a8.integer`` beside the simulated ``w8a8``."""
PTQ = ".ptq"
"""Ending of a setting that is plain post-training quantization, beside the setting that a method converted."""
ON = "@"
"""``perplexity@ptb``: the metric on a further set, of another distribution than the task's own."""
SECOND_SET = "_mm"
"""Ending of metric names on the second evaluation set (MNLI's mismatched one)."""
PREDICTIONS = "predictions"
"""Which of a record's artifacts holds what every example contributed (:mod:`qexp.results.outcomes`)."""
OWN = "method"
"""Setting of the network as its method computes it: simulated, or ``method.integer`` where it was executed."""
Status = Literal["finished", "diverged", "failed", "interrupted"]


@dataclass(frozen=True)
class Metric:
    """One figure. ``definition`` says exactly what was computed, so that two perplexities can be compared or not.

    Up to its first semicolon it is the formula: figures of one formula share a column of a table; what follows (data,
    windows, tokenizer) is printed under it.
    """

    value: float
    higher_is_better: bool
    n: int
    """Examples or predicted tokens that the value rests on."""
    definition: str


@dataclass(frozen=True)
class Record:
    """One experiment from configuration to figures, as kept in ``<results_dir>/<table>/<cell_id>.json``.

    ``metrics``: setting (``float``, ``w8a8``, ``w8a8.integer``, ``w8a8.ptq``, ``method``, ``fp8``) -> metric name ->
    :class:`Metric`.
    ``outliers``: ``{"summary": {...}, "sites": {site name: {...}}}`` of the float model, empty where not measured.
    ``integer``: bits -> ``{"certificate": {...}, "gap": {...}}``: what really ran for the figures of ``w8a8.integer``;
    ``method`` has no gap, since nothing is simulated beside it.

    Raises:
        ValueError: for executed figures without a certificate that lists integer products: they prove nothing.
    """

    cell_id: str
    status: Status
    config: dict[str, Any]
    provenance: dict[str, Any]
    metrics: dict[str, dict[str, Metric]] = field(default_factory=dict)
    outliers: dict[str, Any] = field(default_factory=dict)
    integer: dict[str, Any] = field(default_factory=dict)
    analysis: dict[str, Any] = field(default_factory=dict)
    """What the methods measured of themselves, by method name."""
    timings: dict[str, float] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    """Steps done, final loss, the curve of logged losses, and every site that the methods replaced."""
    artifacts: dict[str, str] = field(default_factory=dict)
    """Files beside the record, by what they are, relative to the record's folder."""
    message: str = ""
    """Why the status is not ``finished``."""
    version: int = RECORD_VERSION
    folder: Path | None = field(default=None, compare=False, repr=False)
    """Where it was read from; no part of what is kept."""

    def __post_init__(self) -> None:
        for setting in self.metrics:
            bits = setting.removesuffix(INTEGER)
            if bits != setting and not self.integer.get(bits, {}).get("certificate", {}).get("products"):
                raise ValueError(f"the figures of {setting} have no certificate of integer products")

    def to_dict(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key != "folder"}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Record:
        """Inverse of :meth:`to_dict`. Raises ``ValueError`` naming what is missing or unknown."""
        try:
            metrics = {s: {k: Metric(**m) for k, m in by_name.items()} for s, by_name in data["metrics"].items()}
            return cls(**{**data, "metrics": metrics})
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a qexp record: {error}") from error


def ending_of(metric: str) -> str:
    """On which evaluation set: ``@ptb`` of ``perplexity@ptb``, ``_mm`` of ``accuracy_mm``, nothing of ``accuracy``."""
    _, at, name = metric.partition(ON)
    return at + name if at else SECOND_SET if metric.endswith(SECOND_SET) else ""
