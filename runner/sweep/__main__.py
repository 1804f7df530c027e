"""A worker process: ``python -m qexp.runner.sweep FOLDER LAUNCH``. Launchers start it; nobody types it."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

from qexp.conf.errors import DiskFullError
from qexp.runner.sweep.folder import SweepFolder
from qexp.runner.sweep.processes import DISK_FULL, INTERRUPTED, pin
from qexp.runner.sweep.settings import compose_settings


def main(arguments: list[str]) -> int:
    """Run cells until none is left. Exit codes: 0 none is left, 3 the disk is full, 130 stopped."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("launch", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--cores", type=int, nargs="*", default=())
    parser.add_argument("--parent", type=int)
    given = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    try:
        pin(given.cores)
        return _work(SweepFolder.open(given.folder), given.launch, given.threads, given.parent)
    except KeyboardInterrupt:
        return INTERRUPTED
    except DiskFullError:
        return DISK_FULL
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return DISK_FULL
        raise


def _work(folder: SweepFolder, launch: int, threads: int | None, parent: int | None) -> int:
    from qexp.runner.sweep.heart import Heart

    if Path(folder.plan.directory).is_dir():
        os.chdir(folder.plan.directory)
    heart = Heart(folder, parent)
    try:
        from qexp.runner.sweep.worker import Worker  # torch and transformers: before anything is claimed

        limits = compose_settings(folder.settings(launch)).sweep
        Worker(folder, launch, limits.max_crashes, threads, heart).run()
    finally:
        heart.end()
    return 0


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
