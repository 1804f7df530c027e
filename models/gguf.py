"""GGUF files: dequantized once to an ordinary folder of safetensors, and cached."""

from __future__ import annotations

import hashlib
import importlib.util
import io
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from qexp.conf.errors import UserError
from qexp.models.folders import new_folder, user_cache_dir
from qexp.models.quiet import quiet
from qexp.models.sources import first_line

RECIPE = 1
"""Raised whenever the same file would convert to something else."""
REQUIRED = ("gguf", "accelerate")


def converted(file: Path) -> Path:
    """The folder that ``file`` was converted to; converts now (some 30 s for 135M parameters) if there is none yet.

    The folder's name holds the file's SHA-256, and it appears only when it is complete. Raises UserError when the
    file is missing or damaged, a package for reading it is missing, or the cache cannot be written.
    """
    if not file.is_file():
        raise UserError(f"GGUF file {str(file)!r} does not exist")
    target = user_cache_dir() / "gguf" / f"{file.stem}-{_sha256(file)[:16]}-{RECIPE}"
    if not target.is_dir():
        _check_packages()
        with new_folder(target, replace=False) as folder, quiet():
            _convert(file, folder)
    return target


def _convert(file: Path, folder: Path) -> None:
    """Write what a model's ``save_pretrained`` would, which refuses a model loaded from GGUF."""
    from safetensors.torch import save_model

    model, tokenizer = _read(file)
    settings = model.config.to_dict()
    settings.pop("quantization_config", None)
    config = type(model.config).from_dict({**settings, "architectures": [type(model).__name__]})
    save_model(model, str(folder / "model.safetensors"), metadata={"format": "pt"})
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _read(file: Path) -> tuple[Any, Any]:
    """The dequantized model (float32) and the tokenizer that ``file`` holds."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        # Its progress bar is tqdm's own, which no verbosity of transformers turns off.
        with redirect_stderr(io.StringIO()):
            options = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
            model = AutoModelForCausalLM.from_pretrained(str(file.parent), dtype=torch.float32, **options)
            return model, AutoTokenizer.from_pretrained(str(file.parent), **options)
    except Exception as error:  # a damaged file fails in the reader, in struct, in numpy or in the tokenizer's Rust
        raise UserError(f"GGUF file {str(file)!r} cannot be read: {first_line(error)}") from error


def _check_packages() -> None:
    missing = [name for name in REQUIRED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"reading GGUF files needs {' and '.join(missing)}: pip install 'qexp[gguf]'")


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
