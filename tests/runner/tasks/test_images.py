"""Images: where they come from, what training does to them, and that it is a function of seed, epoch and image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from qexp.conf.errors import UserError
from qexp.conf.schema import AugmentConfig, PixelConfig, TaskConfig
from qexp.models.images import PixelFormat, mixed_loss
from qexp.runner.tasks import build_task, load_images
from qexp.runner.tasks.augmentation import OPERATIONS, augment, centre, draw_mix
from qexp.runner.tasks.image_classification import ImageTask

GREY = PixelFormat(8, (0.5,), (0.25,))
EVERYTHING = AugmentConfig(
    shift=2, min_area=0.2, flip=True, color_jitter=0.4, operations=2, mixup=0.8, cutmix=1.0, label_smoothing=0.1
)


def digits(**changes: Any) -> TaskConfig:
    return TaskConfig(name="digits", kind="digits", pixels=PixelConfig(8, (0.5,), (0.25,)), **changes)


def folder_of(path: Path) -> TaskConfig:
    return TaskConfig(
        name="mine", kind="images", folder=str(path), pixels=PixelConfig(8, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0))
    )


def task_of(cfg: TaskConfig, seed: int = 1) -> ImageTask:
    task = build_task(cfg, load_images(cfg, None), GREY, "image_classification", 17, seed, Path("unused"))
    assert isinstance(task, ImageTask)
    return task


def draw(path: Path, value: int, size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_digits_are_scikit_learns() -> None:
    corpus = load_images(digits(), None)
    assert {name: len(split.labels) for name, split in corpus.splits.items()} == {"train": 1438, "validation": 359}
    assert corpus.label_names == tuple("0123456789") and "scikit-learn's digits" in corpus.origin
    assert all(np.bincount(split.labels).min() > 20 for split in corpus.splits.values())


def test_pixels_are_normalised_as_the_format_says() -> None:
    task = task_of(digits())
    pixels = task.evaluation()[0]["pixel_values"]
    raw = np.asarray(task.images.split("validation").images[0]) / 255
    torch.testing.assert_close(pixels, torch.tensor((raw - 0.5) / 0.25, dtype=torch.float32)[None])


def test_training_images_depend_on_seed_epoch_and_image_alone() -> None:
    first, again, other = (task_of(digits(augment=EVERYTHING), seed).train() for seed in (1, 1, 2))

    def same(a: Any, b: Any) -> bool:
        return all(torch.equal(a[name], b[name]) for name in ("pixel_values", "labels", "targets"))

    assert same(first[5], again[5]) and same(first[5], first[5]) and not same(first[5], other[5])
    again.set_epoch(1)  # type: ignore[attr-defined]
    assert not same(first[5], again[5])


def test_without_augmentation_training_images_are_the_evaluated_ones() -> None:
    neutral, none = task_of(digits(augment=AugmentConfig())).train(), task_of(digits()).train()
    assert all(torch.equal(neutral[i]["pixel_values"], none[i]["pixel_values"]) for i in range(20))
    assert set(neutral[0]) == {"pixel_values", "labels"}


def test_targets_are_shares_of_the_classes() -> None:
    examples = task_of(digits(augment=EVERYTHING)).train()
    targets = torch.stack([examples[i]["targets"] for i in range(50)])
    torch.testing.assert_close(targets.sum(1), torch.ones(50))
    assert targets.min() >= 0.1 / 10 - 1e-7


@pytest.mark.parametrize(("name", "alpha"), [("mixup", 0.8), ("cutmix", 1.0)])
def test_mixing_keeps_its_share(name: str, alpha: float) -> None:
    white, black = torch.ones(3, 16, 16), torch.zeros(3, 16, 16)
    for seed in range(20):
        mix = draw_mix(AugmentConfig(**{name: alpha}), 16, random(seed))
        assert mix is not None and (mix.box is None) == (name == "mixup")
        assert float(mix(white, black).mean()) == pytest.approx(mix.share, abs=1e-6)


def test_a_smooth_label_has_the_loss_of_its_parts() -> None:
    logits, labels = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    one_hot = torch.nn.functional.one_hot(labels, 3).float()
    expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(mixed_loss(labels, logits, None), mixed_loss(labels, logits, None, one_hot))
    torch.testing.assert_close(mixed_loss(labels, logits, None, 0.9 * one_hot + 0.1 / 3), expected)
    torch.testing.assert_close(mixed_loss(labels, logits, None, num_items_in_batch=4), mixed_loss(labels, logits, None))


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("operation", range(len(OPERATIONS)))
def test_an_operation_keeps_size_and_channels(operation: int, mode: str) -> None:
    image = Image.fromarray(random().integers(0, 256, (9, 9, 3), dtype=np.uint8)).convert(mode)
    for strength, sign in ((0.0, 1), (0.9, 1), (1.0, -1)):
        found = OPERATIONS[operation](image, strength, sign)
        assert (found.size, found.mode) == (image.size, mode)


def test_geometry() -> None:
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    assert augment(image, 8, AugmentConfig(), random()) is image
    views = {augment(image, 8, AugmentConfig(flip=True), random(seed)).tobytes() for seed in range(9)}
    assert views == {image.tobytes(), np.asarray(image)[:, ::-1].tobytes()}
    shifted = np.asarray(augment(image, 8, AugmentConfig(shift=1), random(3)))
    assert set(shifted.ravel()) <= {0, *range(64)} and shifted.shape == (8, 8)
    assert augment(image, 4, AugmentConfig(min_area=0.3), random()).size == (4, 4)
    wide = Image.new("L", (40, 20), 7)
    wide.paste(200, (10, 0, 30, 20))
    assert np.all(np.asarray(centre(wide, 10, 1.0)) == 200)


def test_a_folder_of_classes_is_split(tmp_path: Path) -> None:
    for label, value in (("cat", 10), ("dog", 200)):
        for number in range(20):
            draw(tmp_path / label / f"{number:02}.png", value, (12, 10))
    corpus = load_images(folder_of(tmp_path), None)
    assert corpus.label_names == ("cat", "dog")
    assert {name: len(split.labels) for name, split in corpus.splits.items()} == {"train": 36, "validation": 4}
    files = [{str(path) for path in corpus.splits[name].images.paths} for name in ("train", "validation")]  # type: ignore[attr-defined]
    assert not files[0] & files[1] and corpus.fingerprint == load_images(folder_of(tmp_path), None).fingerprint


def test_folders_named_after_splits_and_parquet_files_say_the_same(tmp_path: Path) -> None:
    import datasets

    for split, count in (("train", 6), ("val", 3)):
        for number in range(count):
            draw(tmp_path / "folders" / split / "ab"[number % 2] / f"{number}.png", 40 * number)
    by_folder = load_images(folder_of(tmp_path / "folders"), None)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    (tmp_path / "parquet").mkdir()
    for split, rows in by_folder.splits.items():
        columns = {"image": [rows.images[i] for i in range(len(rows.labels))], "label": rows.labels.tolist()}
        datasets.Dataset.from_dict(columns, features).to_parquet(tmp_path / "parquet" / f"{split}-0.parquet")
    by_parquet = load_images(folder_of(tmp_path / "parquet"), None)
    assert by_parquet.fingerprint == by_folder.fingerprint


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sub-folder of images for each class"):
        load_images(folder_of(tmp_path), None)
    draw(tmp_path / "a" / "1.png", 1)
    draw(tmp_path / "a" / "2.png", 1)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1.png").write_bytes(b"no image")
    (tmp_path / "b" / "2.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="1.png is not a readable image|2.png is not a readable image"):
        _ = load_images(folder_of(tmp_path), None).fingerprint
    with pytest.raises(UserError, match="no split 'test'"):
        load_images(digits(eval_split="test"), None)
