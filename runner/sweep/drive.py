"""From a planned sweep to its end: start workers, show how far they are, stop when asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from qexp.conf.errors import RunError
from qexp.runner.disk import full_disk_explained
from qexp.runner.stopping import StopRequest
from qexp.runner.sweep.events import Event, EventLog
from qexp.runner.sweep.folder import SweepFolder
from qexp.runner.sweep.state import Snapshot, Watch

SECONDS_BETWEEN_LOOKS = 0.25

Show = Callable[[Snapshot, list[Event]], None]
"""Called again and again with the state and what happened since the last call."""


class Pool(Protocol):
    """The workers of one launcher. ``poll`` says whether any is left, and raises ``RunError`` where that is final."""

    def start(self) -> None: ...
    def poll(self, news: bool) -> bool: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...


@dataclass(frozen=True)
class Outcome:
    snapshot: Snapshot
    stopped: bool
    """Asked to stop, by a signal or ``qexp cancel``, before every cell was settled."""


def drive(folder: SweepFolder, launch: int, pool: Pool, show: Show) -> Outcome:
    """Run the sweep with the workers of ``pool`` until none is left.

    The first SIGINT or SIGTERM lets workers checkpoint; a second one kills them and raises ``KeyboardInterrupt``.
    Raises ``RunError`` where workers cannot go on; those that can have checkpointed then.
    """
    watch, stop, asked = Watch(folder, launch), StopRequest(), False
    watch.look()
    told = len(watch.events)  # of earlier launches: no news
    try:
        with stop.listening(), full_disk_explained(folder.store.root):
            EventLog(folder.events, f"{launch:04d}-launch", launch).append("launched")
            pool.start()
            alive = True
            while alive:
                if stop.requested and not asked:
                    asked = True
                    pool.stop()
                snapshot = watch.look()
                show(snapshot, watch.events[told:])
                alive, told = pool.poll(news=len(watch.events) > told), len(watch.events)
                time.sleep(SECONDS_BETWEEN_LOOKS if alive else 0)
            snapshot = watch.look()
            show(snapshot, watch.events[told:])
    except RunError:
        pool.stop()
        while pool.poll(news=False):
            time.sleep(SECONDS_BETWEEN_LOOKS)
        raise
    finally:
        pool.kill()
    return Outcome(snapshot, (asked or folder.cancelled()) and not snapshot.settled)
