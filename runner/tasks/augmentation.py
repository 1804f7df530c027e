"""Training images as a pure function of (seed, epoch, index): geometry and colour of one image, then mixing of two."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from qexp.conf.schema import AugmentConfig

Pixels = NDArray[np.uint8]
FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
WIDEST = math.log(4 / 3)
"""Logarithm of the largest aspect of a random part."""
FULL = 10.0
"""RandAugment's largest magnitude."""


def augment(image: Image.Image, size: int, cfg: AugmentConfig, random: Generator) -> Image.Image:
    """A training view of ``image``, ``size`` pixels a side: crop or resize, shift, mirror, RandAugment, colours."""
    image = _random_part(image, size, cfg, random)
    if cfg.shift:
        dx, dy = random.integers(-cfg.shift, cfg.shift + 1, size=2)
        image = _affine(image, (1, 0, int(dx), 0, 1, int(dy)))
    if cfg.flip and random.random() < 0.5:
        image = ImageOps.mirror(image)
    for _ in range(cfg.operations):
        operation = OPERATIONS[random.integers(len(OPERATIONS))]
        image = operation(image, cfg.magnitude / FULL, 1 if random.random() < 0.5 else -1)
    if cfg.color_jitter:
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = enhance(image).enhance(1 + random.uniform(-cfg.color_jitter, cfg.color_jitter))
    return image


def _random_part(image: Image.Image, size: int, cfg: AugmentConfig, random: Generator) -> Image.Image:
    """The whole image, or a part of at least ``min_area``, as a square; resized by one of two filters, drawn."""
    if cfg.min_area is not None:
        area = image.width * image.height * random.uniform(cfg.min_area, 1.0)
        aspect = math.exp(random.uniform(-WIDEST, WIDEST))
        width = min(max(round(math.sqrt(area * aspect)), 1), image.width)
        height = min(max(round(math.sqrt(area / aspect)), 1), image.height)
        left, top = (int(random.integers(space + 1)) for space in (image.width - width, image.height - height))
        image = image.crop((left, top, left + width, top + height))
    if image.size == (size, size):
        return image
    return image.resize((size, size), FILTERS[random.integers(len(FILTERS))])


def centre(image: Image.Image, size: int, crop: float) -> Image.Image:
    """The middle of an image, ``size`` pixels a side: a square of ``crop`` of its shorter side, resized (bicubic)."""
    side = max(round(min(image.size) * crop), 1)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    middle = image.crop((left, top, left + side, top + side))
    return middle if side == size else middle.resize((size, size), Image.Resampling.BICUBIC)


@dataclass(frozen=True)
class Mix:
    """How two images become one: ``share`` of the first, as weights of all pixels or (``box``) as its area."""

    share: float
    box: tuple[int, int, int, int] | None = None
    """Top, left, bottom, right of the rectangle that is the second one's."""

    def __call__(self, first: Any, second: Any) -> Any:
        """Images [C, H, W]; a new tensor."""
        if self.box is None:
            return self.share * first + (1 - self.share) * second
        top, left, bottom, right = self.box
        mixed = first.clone()
        mixed[:, top:bottom, left:right] = second[:, top:bottom, left:right]
        return mixed


def draw_mix(cfg: AugmentConfig, size: int, random: Generator) -> Mix | None:
    """Mixup or CutMix as ``cfg`` has them, each half of the time where it has both; None for neither."""
    kinds = [alpha for alpha in (cfg.mixup, cfg.cutmix) if alpha]
    if not kinds:
        return None
    use_cutmix = bool(cfg.cutmix) and (not cfg.mixup or random.random() < 0.5)
    alpha = cfg.cutmix if use_cutmix else cfg.mixup
    share = float(random.beta(alpha, alpha))
    if not use_cutmix:
        return Mix(share)
    half, (y, x) = size * math.sqrt(1 - share) / 2, random.uniform(0, size, size=2)
    top, left, bottom, right = (round(min(max(value, 0), size)) for value in (y - half, x - half, y + half, x + half))
    return Mix(1 - (bottom - top) * (right - left) / size**2, (top, left, bottom, right))


Operation = Callable[[Image.Image, float, int], Image.Image]
"""(image, strength from 0 to 1, sign) -> image."""


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR)


def _enhance(kind: Any) -> Operation:
    return lambda image, strength, sign: kind(image).enhance(1 + sign * 0.9 * strength)


def _posterize(image: Image.Image, strength: float, _: int) -> Image.Image:
    return ImageOps.posterize(image, 8 - round(4 * strength))


OPERATIONS: tuple[Operation, ...] = (
    lambda image, strength, sign: image,
    lambda image, strength, sign: ImageOps.autocontrast(image),
    lambda image, strength, sign: ImageOps.equalize(image),
    lambda image, strength, sign: image.rotate(sign * 30 * strength, resample=Image.Resampling.BILINEAR),
    lambda image, strength, sign: ImageOps.solarize(image, round(256 * (1 - strength))),
    _posterize,
    _enhance(ImageEnhance.Color),
    _enhance(ImageEnhance.Contrast),
    _enhance(ImageEnhance.Brightness),
    _enhance(ImageEnhance.Sharpness),
    lambda image, strength, sign: _affine(image, (1, sign * 0.3 * strength, 0, 0, 1, 0)),
    lambda image, strength, sign: _affine(image, (1, 0, 0, sign * 0.3 * strength, 1, 0)),
    lambda image, strength, sign: _affine(image, (1, 0, sign * 0.45 * strength * image.width, 0, 1, 0)),
    lambda image, strength, sign: _affine(image, (1, 0, 0, 0, 1, sign * 0.45 * strength * image.height)),
)
"""RandAugment's fourteen: identity, autocontrast, equalize, rotate, solarize, posterize, colour, contrast, brightness,
sharpness, shear and shift in x and y. Ranges are AutoAugment's (arXiv 1805.09501)."""
