"""A small folder of text, and configurations that train on it in a second."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from qexp.conf.schema import ExperimentConfig
from qexp.runner.compose import compose

WORDS = "the a small model reads plain text and learns which word comes next in every sentence it has seen".split()


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    pick = random.Random(0)
    for split, rows in (("train", 400), ("validation", 60), ("test", 60)):
        lines = [" ".join(pick.choices(WORDS, k=14)) + " ." for _ in range(rows)]
        (folder / f"{split}.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture
def configure(text_folder: Path, tmp_path: Path) -> Callable[..., ExperimentConfig]:
    """Compose a run of six steps on the small text; overrides given to the call win."""

    def make(*overrides: str) -> ExperimentConfig:
        return compose(
            [
                "model=tiny_bert",
                "task=text_folder",
                f"task.folder={text_folder}",
                "scale=smoke",
                "tracking=none",
                f"results_dir={tmp_path / 'runs'}",
                "threads=1",
                "task.max_length=32",
                "train.max_steps=6",
                "train.batch_size=4",
                "train.save_steps=2",
                "quant.calibration.batches=2",
                "quant.calibration.batch_size=4",
                "eval.heatmaps=false",
                *overrides,
            ]
        )

    return make
