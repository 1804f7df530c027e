"""Silence for transformers and the hub while they load: qexp reports what matters itself."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Turn off progress bars and log lines below ERROR of transformers and huggingface_hub, and restore them after.

    Also keeps transformers from asking the hub's bot to convert old checkpoints to safetensors.
    """
    from transformers.utils import logging as hf_logging

    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    hub = logging.getLogger("huggingface_hub")
    verbosity, hub_level, bars = hf_logging.get_verbosity(), hub.level, hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    hub.setLevel(logging.ERROR)
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        hub.setLevel(hub_level)
        if bars:
            hf_logging.enable_progress_bar()
