"""The thread of a worker that shows that it lives, and that notices when it should not go on."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from qexp.runner.sweep.claims import Claim
from qexp.runner.sweep.folder import SweepFolder
from qexp.runner.sweep.processes import LOST_CLAIM

SECONDS_BETWEEN_BEATS = 2.0


class Heart:
    """Beats for the claims of this process. Asks it to stop (SIGTERM, which checkpoints) when the sweep is cancelled or
    the process that started it is gone; ends it at once when it lost a claim, before it writes where another works."""

    def __init__(self, folder: SweepFolder, parent: int | None, seconds: float = SECONDS_BETWEEN_BEATS):
        self._folder, self._parent, self._seconds = folder, parent, seconds
        self._claims: list[Claim] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        threading.Thread(target=self._live, name="heart", daemon=True).start()

    @contextmanager
    def beating(self, claims: Sequence[Claim]) -> Iterator[None]:
        with self._lock:
            self._claims = list(claims)
        try:
            yield
        finally:
            with self._lock:
                self._claims = []

    def end(self) -> None:
        self._ended.set()

    def _live(self) -> None:
        asked = False
        while not self._ended.wait(self._seconds):
            with self._lock:
                lost = [claim.name for claim in self._claims if not claim.beat()]
            if lost:
                print(f"{lost[0]} was taken over by another process: this one was silent too long", file=sys.stderr)
                sys.stderr.flush()
                os._exit(LOST_CLAIM)
            if not asked and self._should_stop():
                asked = True
                os.kill(os.getpid(), signal.SIGTERM)

    def _should_stop(self) -> bool:
        orphaned = self._parent is not None and os.getppid() != self._parent
        return orphaned or self._folder.cancelled()
