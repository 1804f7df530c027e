"""What a task of images settles in a configuration: the size of a model from scratch, and its number of tokens."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from qexp.conf.errors import UserError
from qexp.conf.schema import IMAGE_KINDS, ExperimentConfig, ModelConfig, PixelConfig
from qexp.models.images import image_side
from qexp.models.sources import IMAGE_FAMILIES, family_of, is_pretrained, locate, read_config

PATCHES = ((16, 2), (64, 4))
"""Images of up to so many pixels a side get patches of so many, unless the model says; larger ones get 16."""


def settle_images(config: ExperimentConfig, asked: Collection[str]) -> ExperimentConfig:
    """``config`` with ``model.dimensions`` and ``task.max_length`` of its images, where its task is of images.

    ``asked``: the keys that the user set. Raises ``UserError`` for a model that sees no images or a task that has none,
    and for sizes that do not fit each other.
    """
    task, model = config.task, config.model
    if task.kind not in IMAGE_KINDS:
        _check_text(config)
        return config
    if task.pixels is None:
        raise UserError(f"task={task.name} needs to know its images: task.pixels.size, .mean and .std")
    if len(task.pixels.mean) != len(task.pixels.std) or len(task.pixels.mean) == 2:
        raise UserError("task.pixels: mean and std need a number for each channel, one (grey) or three (RGB)")
    if (family := family_of(model)) not in IMAGE_FAMILIES:
        raise UserError(f"task={task.name} is of images, and {model.name} ({family}) reads text: choose model=tiny_vit")
    if is_pretrained(model):
        if model.patch_layer_norm:
            raise UserError(
                "model.patch_layer_norm is for models from scratch: it would change what a trained one does"
            )
        dimensions = model.dimensions or read_config(locate(model))
    else:
        dimensions = _dimensions(model, task.pixels)
        model = replace(model, dimensions=dimensions)
    size, patch = image_side(dimensions, "image_size", 224), image_side(dimensions, "patch_size", 16)
    if size % patch:
        raise UserError(
            f"images of {size} pixels are not made of whole patches of {patch}: model.dimensions.patch_size"
        )
    tokens = (size // patch) ** 2 + 1
    if "task.max_length" in asked and task.max_length != tokens:
        raise UserError(
            f"task.max_length: these images have {tokens} tokens, ({size} / {patch})² patches and the class"
        )
    return replace(config, model=model, task=replace(task, max_length=tokens))


def _dimensions(model: ModelConfig, pixels: PixelConfig) -> dict[str, object]:
    """The model's own, and what it leaves to the images: their size, their channels, and patches to suit."""
    size = image_side(model.dimensions, "image_size", pixels.size)
    patch = next((patch for limit, patch in PATCHES if size <= limit), 16)
    return {"image_size": size, "patch_size": patch, "num_channels": len(pixels.mean), **model.dimensions}


def _check_text(config: ExperimentConfig) -> None:
    task, model = config.task, config.model
    if model.family in IMAGE_FAMILIES:
        raise UserError(f"model={model.name} sees images, and task={task.name} has none: choose task=digits")
    for key in ("pixels", "augment"):
        if getattr(task, key) is not None:
            raise UserError(f"task.{key} is for tasks of images; task={task.name} is of text")
    if model.patch_layer_norm:
        raise UserError(f"model.patch_layer_norm is for image models; {model.name} has no patches")
