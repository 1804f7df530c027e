"""Settings of gated attention."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from qexp.conf.schema import STRICT, NonNegative, Positive


@dataclass(frozen=True, config=STRICT)
class Settings:
    """Which gate, how open it starts, and how it is trained."""

    kind: Literal["linear", "mlp", "all_heads"] = "linear"
    """``linear`` and ``mlp``: a gate for each head, on its slice of the input; ``all_heads``: one layer for all."""
    hidden: Positive | None = None
    """Hidden units of the ``mlp`` gate; null is head_dim // 4, as in the released code."""
    pi_init: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """How open the gates start: their bias is logit(pi_init). Null is the paper's: 0.5 for ``linear``, a random bias
    for the others (0.5 in the fine-tuning form)."""
    finetune: Literal["auto"] | bool = "auto"
    """The fine-tuning form: gates times 1 / pi_init, so that they start at 1. ``auto``: for pretrained weights."""
    init_std: NonNegative = 0.0
    """Fine-tuning form: standard deviation of the gate weights; 0 starts exactly at the vanilla model."""
    lr_factor: Annotated[float, Field(gt=0.0)] = 1.0
    """Learning rate of the gates relative to the model's. Other than 1, the gates get no weight decay either."""
