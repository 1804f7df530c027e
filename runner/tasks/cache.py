"""Tokenised data kept between runs, found by content: the same text, tokenizer and settings give the same file."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qexp.conf.errors import RunError

Arrays = Mapping[str, NDArray[Any]]

CACHE_VERSION = 1
"""Raised whenever the same inputs would be tokenised otherwise."""
_log = logging.getLogger(__name__)


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """64 hex digits of what a tokenizer does, without the truncation and padding of its last call."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        content = json.loads(backend.to_str())
        content = {key: value for key, value in content.items() if key not in ("truncation", "padding")}
    else:
        content = {"vocabulary": tokenizer.get_vocab()}
    content["special"] = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    content["class"] = type(tokenizer).__name__
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def cached_arrays(folder: Path, key: Mapping[str, Any], build: Callable[[], Arrays]) -> Arrays:
    """The arrays that ``build`` makes, read from ``folder`` where they were made before.

    A file that cannot be read (its checksums are verified) is renamed to ``*.corrupt`` and made again.
    """
    text = json.dumps({"version": CACHE_VERSION, **key}, sort_keys=True)
    path = folder / f"{sha256(text.encode()).hexdigest()[:32]}.npz"
    if path.exists():
        try:
            return _read(path)
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            aside = path.with_suffix(".corrupt")
            os.replace(path, aside)
            _log.warning("%s was unreadable (%s): set aside as %s and made again", path, error, aside.name)
    arrays = build()
    _write(path, arrays)
    return arrays


def _read(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _write(path: Path, arrays: Arrays) -> None:
    """All or nothing: a run killed here leaves no half file behind under the final name."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise RunError(f"cannot keep tokenised text in {path.parent}: {error}") from error
