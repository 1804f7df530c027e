"""What ``train.precision`` leaves open, and what does not go with it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from qexp.conf.errors import UserError
from qexp.conf.schema import ExperimentConfig
from qexp.methods.registry import in_integers, quantizes_training

ROUNDING = {"fp16": "stochastic", "bf16": "stochastic", "fp8": "nearest"}
"""Where the user names none: weights of 16 bits would not move with nearest rounding."""


def settle_precision(config: ExperimentConfig, asked: Collection[str]) -> ExperimentConfig:
    """``config`` with the rounding settled; ``asked``: the keys that the user set.

    Raises ``UserError`` for a setting that the precision does not use, and for methods with an arithmetic of their own.
    """
    train = config.train
    if train.precision != "fp8" and "train.fp8_formats" in asked:
        raise UserError(f"train.fp8_formats is for train.precision=fp8, and this is {train.precision}: leave it out")
    if train.precision == "fp32":
        for key in ("rounding", "loss_scale"):
            if getattr(train, key) is not None:
                raise UserError(f"train.{key} has no use in fp32: choose train.precision=fp16, bf16 or fp8")
        return config
    own = [one.name for one in config.method if in_integers([one]) or quantizes_training([one])]
    if own:
        raise UserError(
            f"method={own[0]} has an arithmetic of its own in training: choose train.precision=fp32, or another method"
        )
    rounding = train.rounding or ROUNDING[train.precision]
    return replace(config, train=replace(train, rounding=rounding))  # type: ignore[arg-type]
