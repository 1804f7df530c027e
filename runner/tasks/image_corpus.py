"""Labelled images before any network: scikit-learn's digits, a data set of the hub or of parquet files, or folders.

No torch here. Images are decoded when they are asked for: a data set need not fit into memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qexp.conf.errors import UserError
from qexp.conf.schema import PixelConfig, TaskConfig
from qexp.runner.tasks.sources import find_folder, open_hub, require_columns, split_of

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm")
HELD_OUT = 10
"""Where images come without splits, one in so many of each class is for validation."""
FINGERPRINTED = 1000
"""Images whose pixels are part of a corpus's fingerprint, spread evenly: all of ImageNet would take an hour."""


@dataclass(frozen=True)
class Labelled:
    """One split: ``images`` opens the i-th one, ``labels`` [N] are class numbers."""

    images: Sequence[Image]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class ImageCorpus:
    """Images by split. ``origin`` says what they are, for the definitions of metrics."""

    name: str
    label_names: tuple[str, ...]
    splits: Mapping[str, Labelled]
    eval_split: str
    origin: str

    @property
    def num_labels(self) -> int:
        return len(self.label_names)

    def split(self, name: str) -> Labelled:
        if name not in self.splits:
            raise UserError(f"task={self.name} has no split {name!r} here; it has {', '.join(self.splits)}")
        return self.splits[name]

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of all labels and of :data:`FINGERPRINTED` images of each split."""
        digest = sha256(repr(self.label_names).encode())
        for name, split in sorted(self.splits.items()):
            digest.update(f"\0{name}\0{len(split.labels)}\0".encode() + split.labels.tobytes())
            chosen = np.linspace(0, len(split.labels) - 1, min(FINGERPRINTED, len(split.labels))).astype(int)
            for index in chosen:
                image = split.images[int(index)]
                digest.update(f"{image.mode}{image.size}".encode() + image.tobytes())
        return digest.hexdigest()[:16]


def load_images(cfg: TaskConfig, data_dir: str | None) -> ImageCorpus:
    """The task's images: training and validation split as far as there are, and the one that is evaluated.

    A local folder goes before the hub. Raises ``UserError`` where there are none, or labels are hidden or malformed.
    """
    assert cfg.pixels is not None, "composing checks that tasks of images have pixels"
    corpus = _digits(cfg) if cfg.kind == "digits" else _stored(cfg, cfg.pixels, data_dir)
    corpus.split(cfg.eval_split)
    for name, split in corpus.splits.items():
        if not len(split.labels):
            raise UserError(f"task={cfg.name}, split {name}: there are no images")
        if (split.labels < 0).any() or (split.labels >= corpus.num_labels).any():
            raise UserError(
                f"task={cfg.name}, split {name}: labels must be 0 to {corpus.num_labels - 1} (-1 hides them: choose "
                "another task.eval_split)"
            )
    return corpus


class _Arrays(Sequence[Any]):
    """Grey images from uint8 [N, H, W]."""

    def __init__(self, pixels: NDArray[np.uint8]):
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, i: Any) -> Any:
        from PIL import Image

        return Image.fromarray(self.pixels[i])


def _digits(cfg: TaskConfig) -> ImageCorpus:
    """8 x 8 pixels, their 17 grey levels spread over 0 to 255; every fifth image is for validation."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels, labels = np.rint(data.images * (255 / 16)).astype(np.uint8), data.target.astype(np.int64)
    held_out = np.arange(len(labels)) % 5 == 4
    splits = {
        name: Labelled(_Arrays(pixels[chosen]), labels[chosen])
        for name, chosen in (("train", ~held_out), ("validation", held_out))
    }
    names = tuple(str(name) for name in data.target_names)
    return ImageCorpus(cfg.name, names, splits, cfg.eval_split, "scikit-learn's digits (8 x 8, 1,797 images)")


def _stored(cfg: TaskConfig, pixels: PixelConfig, data_dir: str | None) -> ImageCorpus:
    folder = find_folder(cfg, data_dir)
    if folder is None and cfg.path is None:
        raise UserError(f"task={cfg.name} has no images: task.folder=FOLDER with a sub-folder of images for each class")
    if folder is not None and not any(folder.glob("*.parquet")):
        return _from_folder(cfg, folder)
    wanted = dict.fromkeys(("train", "validation", cfg.eval_split))
    found = _parquet(folder) if folder is not None else open_hub(cfg)
    columns = (pixels.image_column, pixels.label_column)
    splits = {name: found[name] for name in wanted if name in found}
    if not splits:
        raise UserError(f"task={cfg.name} has none of the splits {', '.join(wanted)}; it has {', '.join(found)}")
    for name, rows in splits.items():
        require_columns(columns, rows.column_names, f"task={cfg.name}, split {name}")
    names = _label_names(splits, pixels.label_column)
    labelled = {name: _labelled(rows, *columns) for name, rows in splits.items()}
    return ImageCorpus(cfg.name, names, labelled, cfg.eval_split, cfg.path or cfg.name)


def _parquet(folder: Path) -> Any:
    import datasets

    by_split: dict[str, list[str]] = {}
    for file in sorted(folder.glob("*.parquet")):
        by_split.setdefault(split_of(file.stem) or "train", []).append(str(file))
    try:
        return datasets.load_dataset("parquet", data_files=by_split)
    except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
        raise UserError(f"{folder} does not hold readable parquet files: {str(error).partition(chr(10))[0]}") from error


def _label_names(splits: Mapping[str, Any], column: str) -> tuple[str, ...]:
    first = next(iter(splits.values()))
    if names := getattr(first.features[column], "names", None):
        return tuple(names)
    return tuple(str(number) for number in range(max(max(rows[column]) for rows in splits.values()) + 1))


def _labelled(rows: Any, image_column: str, label_column: str) -> Labelled:
    import datasets

    if not isinstance(rows.features[image_column], datasets.Image):
        rows = rows.cast_column(image_column, datasets.Image())
    return Labelled(rows[image_column], np.asarray(rows[label_column], dtype=np.int64))


class _Files(Sequence[Any]):
    """Images from their files."""

    def __init__(self, paths: Sequence[Path]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: Any) -> Any:
        from PIL import Image

        try:
            with Image.open(self.paths[i]) as image:
                image.load()
                return image
        except (OSError, ValueError) as error:
            raise UserError(f"{self.paths[i]} is not a readable image: {error}") from error


def _from_folder(cfg: TaskConfig, folder: Path) -> ImageCorpus:
    """``train/<class>/*.png`` and so on; or ``<class>/*.png``, of which one in :data:`HELD_OUT` is for validation."""
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    by_split = {name: path for path in inside if (name := split_of(path.name)) is not None}
    named = {name: _by_class(path) for name, path in by_split.items()} or {"": _by_class(folder)}
    names = tuple(sorted({label for classes in named.values() for label in classes}))
    if len(names) < 2:
        raise UserError(
            f"{folder} holds images of {len(names)} classes: expected a sub-folder of images for each class"
        )
    if "" in named:
        held_out = {label: files[HELD_OUT - 1 :: HELD_OUT] or files[-1:] for label, files in named[""].items()}
        kept = {label: [f for f in files if f not in set(held_out[label])] for label, files in named[""].items()}
        named = {"train": kept, "validation": held_out}
    splits = {name: _of_files(classes, names) for name, classes in named.items()}
    return ImageCorpus(cfg.name, names, splits, cfg.eval_split, f"images in {folder.name}")


def _by_class(folder: Path) -> dict[str, list[Path]]:
    found = {}
    for path in sorted(folder.iterdir()):
        if path.is_dir() and (files := sorted(f for f in path.rglob("*") if f.suffix.lower() in SUFFIXES)):
            found[path.name] = files
    return found


def _of_files(classes: Mapping[str, Sequence[Path]], names: Sequence[str]) -> Labelled:
    pairs = [(file, names.index(label)) for label, files in classes.items() for file in files]
    return Labelled(_Files([file for file, _ in pairs]), np.array([label for _, label in pairs], dtype=np.int64))
