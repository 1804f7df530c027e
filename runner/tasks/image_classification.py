"""Classification of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.random import Generator, Philox
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from qexp.conf.schema import AugmentConfig, Objective, TaskConfig
from qexp.models.images import PixelFormat
from qexp.results.outcomes import Outcomes
from qexp.results.schema import Metric
from qexp.runner.tasks.augmentation import augment, centre, draw_mix
from qexp.runner.tasks.base import Example, Examples, ExampleTask, require_finite, shuffled
from qexp.runner.tasks.formulas import FORMULAS
from qexp.runner.tasks.image_corpus import ImageCorpus, Labelled


class Images(Examples):
    """``pixel_values`` [C, size, size], normalised, and the label: the middle of each image, not augmented."""

    def __init__(self, split: Labelled, indices: NDArray[np.int64], format: PixelFormat, crop: float):
        self.split, self.indices, self.format, self.crop = split, indices, format, crop
        self.mean, self.std = (torch.tensor(values).view(-1, 1, 1) for values in (format.mean, format.std))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> Example:
        index = int(self.indices[i])
        pixels = self._normalised(centre(self._opened(index), self.format.size, self.crop))
        return {"pixel_values": pixels, "labels": torch.tensor(self.split.labels[index])}

    def _opened(self, index: int) -> Any:
        return self.split.images[index].convert("L" if self.format.channels == 1 else "RGB")

    def _normalised(self, image: Any) -> Tensor:
        pixels = torch.from_numpy(np.array(image, dtype=np.uint8)).view(image.height, image.width, -1)
        return (pixels.permute(2, 0, 1) / 255 - self.mean) / self.std


class AugmentedImages(Images):
    """Training images, a pure function of (seed, epoch, index), as masks of text are (``MaskedBlocks``).

    Whoever iterates must call :meth:`set_epoch`. Where images are mixed or labels smoothed an example has ``targets``
    too, the share of each class [C].
    """

    def __init__(self, images: Images, cfg: AugmentConfig, num_labels: int, seed: int):
        super().__init__(images.split, images.indices, images.format, images.crop)
        self.cfg, self.num_labels, self.seed, self.epoch = cfg, num_labels, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, i: int) -> Example:
        random = Generator(Philox(key=_words(self.seed, self.epoch), counter=_words(0, 0, 0, i)))
        pixels, label = self._view(i, random)
        targets = F.one_hot(label, self.num_labels).float()
        if (mix := draw_mix(self.cfg, self.format.size, random)) is not None:
            other, its_label = self._view(int(random.integers(len(self))), random)
            pixels = mix(pixels, other)
            targets = mix.share * targets + (1 - mix.share) * F.one_hot(its_label, self.num_labels)
        if mix is None and not self.cfg.label_smoothing:
            return {"pixel_values": pixels, "labels": label}
        smoothing = self.cfg.label_smoothing
        targets = (1 - smoothing) * targets + smoothing / self.num_labels
        return {"pixel_values": pixels, "labels": label, "targets": targets}

    def _view(self, i: int, random: Generator) -> tuple[Tensor, Tensor]:
        index = int(self.indices[i])
        image = augment(self._opened(index), self.format.size, self.cfg, random)
        return self._normalised(image), torch.tensor(self.split.labels[index])


def stacked(examples: Sequence[Example]) -> dict[str, Tensor]:
    """Collator: all images are of one size."""
    return {name: torch.stack([example[name] for example in examples]) for name in examples[0]}


class ImageTask(ExampleTask):
    """Predict the class of each image: the largest logit."""

    primary_metric = "accuracy"

    def __init__(
        self,
        cfg: TaskConfig,
        corpus: ImageCorpus,
        format: PixelFormat,
        objective: Objective,
        max_length: int,
        seed: int,
    ):
        super().__init__(cfg, corpus, objective, max_length, seed)
        assert cfg.pixels is not None
        self.images, self.format, self.crop, self.collator = corpus, format, cfg.pixels.crop, stacked

    def train(self) -> Examples:
        examples, cfg = self._examples("train"), self.cfg.augment
        return examples if cfg is None else AugmentedImages(examples, cfg, self.images.num_labels, self.seed)

    def calibration(self, n_examples: int, seed: int) -> Examples:
        split = self._calibration_split()
        used = self._used(split)
        return self._examples(split, used[shuffled(len(used), seed)[:n_examples]])

    def evaluation(self) -> Examples:
        return self._examples(self.images.eval_split)

    def score(self, found: Mapping[str, Outcomes]) -> dict[str, Metric]:
        formula, split, one = FORMULAS["accuracy"], self.images.eval_split, found[""]
        value = formula.compute(one.values, one.references)
        middle = f"the middle {self.crop:g} of the shorter side, " if self.crop < 1 else ""
        definition = f"top-1: {formula.definition}; {self.images.origin}, split {split}; {middle}{self.format}"
        return {"accuracy": Metric(value, higher_is_better=True, n=len(one.values), definition=definition)}

    def _contributions(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return require_finite(logits, self.name).argmax(-1), labels

    def _used(self, split: str) -> NDArray[np.int64]:
        return self._indices(split, len(self.images.split(split).labels))

    def _examples(self, split: str, chosen: NDArray[np.int64] | None = None) -> Images:
        """All used images of a split, or those chosen."""
        indices = self._used(split) if chosen is None else chosen
        return Images(self.images.split(split), indices, self.format, self.crop)


def _words(*values: int) -> NDArray[np.uint64]:
    return np.array(values, dtype=np.uint64)
