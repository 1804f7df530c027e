"""A full disk, said in one line whichever library noticed it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qexp.conf.errors import DiskFullError


@contextmanager
def full_disk_explained(folder: Path | str) -> Iterator[None]:
    """Turn "no space left" from any writer (safetensors has its own error class) into a ``DiskFullError``."""
    try:
        yield
    except Exception as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
            raise DiskFullError(
                f"no space left on the disk of {folder}; finished records are kept: make room and run the same command "
                "again to go on from the last checkpoint"
            ) from error
        raise
