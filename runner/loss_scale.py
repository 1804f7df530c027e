"""The factor on the loss that lifts gradients into a narrow format's range."""

from __future__ import annotations

from typing import Any, Literal

INITIAL = 2.0**16
GROWTH_INTERVAL = 2000
"""Good steps after which a dynamic scale is doubled; both figures are those of ``torch.amp.GradScaler``."""


class LossScale:
    """``setting``: a number, ``dynamic``, or None for 1. ``value`` is the factor now."""

    def __init__(self, setting: float | Literal["dynamic"] | None):
        self.dynamic = setting == "dynamic"
        self.value = INITIAL if setting == "dynamic" else float(setting or 1.0)
        self.good_steps = 0
        self.skipped = 0

    @property
    def can_fall(self) -> bool:
        """Whether an overflow can be answered by a smaller factor: below 1 there would be nothing to lift."""
        return self.dynamic and self.value > 1.0

    def fall(self) -> None:
        """After a gradient that overflowed, whose step is left out."""
        self.value, self.good_steps, self.skipped = self.value / 2.0, 0, self.skipped + 1

    def rise(self) -> None:
        """After a good step."""
        self.good_steps += 1
        if self.dynamic and self.good_steps == GROWTH_INTERVAL:
            self.value, self.good_steps = self.value * 2.0, 0

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"value": self.value, "good_steps": self.good_steps, "skipped": self.skipped}

    def load(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state`."""
        self.value, self.good_steps, self.skipped = state["value"], state["good_steps"], state["skipped"]
