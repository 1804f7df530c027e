"""Checkpoints that are whole or set aside: a kill while one is written must never be resumed from."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from itertools import count
from pathlib import Path

SEAL = "sealed.json"


def seal(checkpoint: Path) -> None:
    """Write the digest of every file of a finished checkpoint; its presence means that the checkpoint is whole."""
    temporary = checkpoint / f"{SEAL}.tmp"
    temporary.write_text(json.dumps(_digests(checkpoint), indent=1), encoding="utf-8")
    os.replace(temporary, checkpoint / SEAL)


def is_sealed(checkpoint: Path) -> bool:
    """Whether every file is as it was when the checkpoint was sealed."""
    try:
        expected = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))
        return bool(expected == _digests(checkpoint))
    except (OSError, ValueError):
        return False


def last_checkpoint(folder: Path) -> tuple[Path | None, list[Path]]:
    """The newest whole checkpoint below ``folder``, and the broken ones that were renamed to ``<name>.corrupt-1``."""
    set_aside: list[Path] = []
    for checkpoint in _newest_first(folder):
        if is_sealed(checkpoint):
            return checkpoint, set_aside
        set_aside.append(checkpoint.rename(_free_name(checkpoint)))
    return None, set_aside


def _newest_first(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")), reverse=True)


def _free_name(checkpoint: Path) -> Path:
    names = (checkpoint.with_name(f"{checkpoint.name}.corrupt-{number}") for number in count(1))
    return next(path for path in names if not path.exists())


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(SEAL))
    return {path.name: _digest(path) for path in files}


def _digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def discard(folder: Path) -> None:
    """Delete the checkpoints of a training run that is finished and saved."""
    shutil.rmtree(folder, ignore_errors=True)
