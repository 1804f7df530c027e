"""What ``train.devices`` needs of the rest of a configuration."""

from __future__ import annotations

from qexp.conf.errors import UserError
from qexp.conf.schema import ExperimentConfig


def check_devices(config: ExperimentConfig) -> None:
    """Raise ``UserError`` where the batches of ``config`` cannot be shared out, or its arithmetic not be kept."""
    train, wanted = config.train, f"train.devices={config.train.devices}"
    if train.devices == 1:
        return
    if train.batch_size % train.devices:
        raise UserError(
            f"{wanted} cannot share batches of train.batch_size={train.batch_size} equally: choose a multiple of "
            f"{train.devices} (every device has its part of each batch, of each accumulated one too)"
        )
    if train.precision != "fp32":
        raise UserError(
            f"{wanted} trains in fp32 only, since loss scale and rounding of train.precision={train.precision} are one "
            "process's: choose train.precision=fp32, or train.devices=1"
        )
    if ":" in config.device:
        raise UserError(f"{wanted} and device={config.device}, which is one: choose device=cuda, or train.devices=1")
