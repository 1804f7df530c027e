"""Folders that are either complete or absent, and where qexp keeps what it makes for itself."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qexp.conf.errors import UserError


def user_cache_dir() -> Path:
    """Where converted models and trained tokenizers are kept: ``QEXP_CACHE_DIR``, or the user's cache folder."""
    from platformdirs import user_cache_dir as platform_cache_dir

    return Path(os.environ.get("QEXP_CACHE_DIR") or platform_cache_dir("qexp"))


@contextmanager
def new_folder(target: Path, *, replace: bool) -> Iterator[Path]:
    """Yield an empty folder beside ``target`` that is renamed to ``target`` when the block ends without an error.

    An interrupted block leaves no ``target``, so whatever exists is whole. With ``replace`` an older ``target`` gives
    way; without it the older one is kept (two processes that fill one cache). Raises UserError when the parent
    cannot be written.
    """
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"cannot write in {str(target.parent)!r}: {error.strerror}") from error
    try:
        yield temporary
        _move(temporary, target, replace)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move(source: Path, target: Path, replace: bool) -> None:
    if replace and target.exists():
        retired = source.with_name(f"{source.name}.old")
        target.rename(retired)
        source.rename(target)
        shutil.rmtree(retired, ignore_errors=True)
        return
    try:
        source.rename(target)
    except OSError:
        if replace or not target.exists():  # otherwise another process was first, with the same content
            raise
