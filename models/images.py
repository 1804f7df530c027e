"""What an image network wants to see: the size of its images and how pixels are normalised; and its loss."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qexp.conf.errors import UserError
from qexp.conf.schema import ModelConfig, PixelConfig
from qexp.models.sources import Checkpoint, is_pretrained, locate, read_config, read_json

if TYPE_CHECKING:
    from torch import Tensor

PROCESSOR = "preprocessor_config.json"
"""Where a checkpoint keeps how it wants its pixels, in the Hugging Face layout."""


@dataclass(frozen=True)
class PixelFormat:
    """Square images of ``size`` pixels a side; a pixel p of 0 to 255 enters the network as (p / 255 - mean) / std.

    ``mean`` and ``std`` have a number for each channel: one (grey) or three (RGB).
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def channels(self) -> int:
        return len(self.mean)

    def save_pretrained(self, folder: Path | str) -> None:
        """Write what a tokenizer's ``save_pretrained`` is for text: how to prepare inputs for the network."""
        side = {"height": self.size, "width": self.size}
        settings = {"image_processor_type": "ViTImageProcessor", "do_resize": True, "size": side, "do_rescale": True}
        settings |= {"do_normalize": True, "image_mean": list(self.mean), "image_std": list(self.std)}
        Path(folder, PROCESSOR).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    def __str__(self) -> str:
        grey = "grey" if self.channels == 1 else "RGB"
        numbers = (", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        mean, std = numbers
        return f"{self.size} x {self.size} pixels, {grey}, (p / 255 - mean) / std with mean {mean} and std {std}"


def load_pixel_format(cfg: ModelConfig, pixels: PixelConfig) -> PixelFormat:
    """How ``cfg`` wants its images: a checkpoint as it was trained, a model from scratch as the task has them.

    Raises ``UserError`` for a checkpoint whose files cannot be read or do not say a usable size.
    """
    if not is_pretrained(cfg):
        return _for_channels(pixels, cfg.dimensions["image_size"], cfg.dimensions["num_channels"])
    checkpoint = locate(cfg)
    config = read_config(checkpoint)
    for key, value in cfg.dimensions.items():
        if config.get(key) != value:
            raise UserError(f"model.dimensions.{key}={value}, but {checkpoint.location!r} has {config.get(key)}")
    own = _for_channels(pixels, image_side(config, "image_size", 224), config.get("num_channels", 3))
    processor = _processor(checkpoint)
    mean, std = processor.get("image_mean", own.mean), processor.get("image_std", own.std)
    return PixelFormat(own.size, tuple(mean), tuple(std))


def image_side(config: Mapping[str, Any], key: str, default: int) -> int:
    """``image_size`` or ``patch_size`` of a ViT configuration in pixels a side. ``UserError`` unless it is a square."""
    value = config.get(key, default)
    sides = set(value) if isinstance(value, list | tuple) else {value}
    if len(sides) != 1 or not all(type(side) is int and side > 0 for side in sides):
        raise UserError(f"{key}={value}: expected a number of pixels; only square images and patches are supported")
    return int(sides.pop())


def _for_channels(pixels: PixelConfig, size: int, channels: int) -> PixelFormat:
    """The task's normalisation for a network of one or three channels, whichever the task has itself."""
    mean, std = (
        values if len(values) == channels else (sum(values) / len(values),) * channels
        for values in (pixels.mean, pixels.std)
    )
    return PixelFormat(size, mean, std)


def _processor(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """The checkpoint's own normalisation; empty where it says nothing."""
    try:
        return read_json(checkpoint, PROCESSOR)
    except UserError:
        return {}


def mixed_loss(
    labels: Tensor,
    logits: Tensor,
    config: Any,
    targets: Tensor | None = None,
    num_items_in_batch: Tensor | int | None = None,
    **_: Any,
) -> Tensor:
    """Cross-entropy of ``logits`` [B, C] with ``labels`` [B], or with the shares of classes in ``targets`` [B, C].

    The mean over a batch, or the sum over ``num_items_in_batch`` where the Trainer accumulates gradients.
    """
    from torch.nn import functional as F

    expected = labels if targets is None else targets
    if num_items_in_batch is None:
        return F.cross_entropy(logits, expected)
    return F.cross_entropy(logits, expected, reduction="sum") / num_items_in_batch
