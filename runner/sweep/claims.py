"""Who runs what: claims on names (cells, trained networks), as files that are only ever created exclusively.

A claim on ``name`` is the file ``name.N`` of the highest N. Whoever creates ``name.N+1`` owns the name from then on,
and may do so when there is no claim, or when the owner of ``name.N`` is dead. Nobody renames or rewrites a claim and
only its owner removes it, so two processes can never take over the same one. There are no advisory locks, which shared
file systems may not have: a hard link, made with its content, exists once or not at all.

Dead is: on this machine, a process that is gone; on another, a file whose time has not changed for ``stale_after``
seconds *of the watcher's own monotonic clock*. The file's time is compared with itself only, never with a clock.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qexp.runner.sweep.processes import NOBODY, Process, is_alive, this_process

STALE_AFTER = 120.0
"""Seconds without a heartbeat: more than an NFS client may keep a file's attributes (60)."""


@dataclass(frozen=True)
class Claim:
    """One file of one owner."""

    path: Path
    process: Process
    token: str
    took_over: Process | None = None
    """The dead process whose place it takes."""

    @property
    def name(self) -> str:
        return self.path.name.rpartition(".")[0]

    @property
    def number(self) -> int:
        return int(self.path.name.rpartition(".")[2])

    def beat(self) -> bool:
        """Show that the owner lives. False if the claim is lost: someone took the owner for dead."""
        try:
            os.utime(self.path)
        except FileNotFoundError:
            return False
        except OSError:
            pass  # a full or hanging disk is no reason to give up
        return not self.path.with_name(f"{self.name}.{self.number + 1}").exists()

    def release(self) -> None:
        with suppress(FileNotFoundError):
            self.path.unlink()

    def forget_dead(self) -> None:
        """Remove the files of earlier, dead owners: once what is claimed is done for good, nobody asks for them."""
        for number in range(1, self.number):
            with suppress(OSError):
                self.path.with_name(f"{self.name}.{number}").unlink()


class Claims:
    """The claims in ``folder``, as one process sees and makes them."""

    def __init__(self, folder: Path, stale_after: float = STALE_AFTER, clock: Callable[[], float] = time.monotonic):
        self._folder, self._stale_after, self._clock = folder, stale_after, clock
        self._seen: dict[str, tuple[int, float]] = {}
        """Token of a claim -> the file's time and when, by our clock, that time was first seen."""

    def acquire(self, name: str) -> Claim | None:
        """A claim on ``name``, or None while another process that may be alive has it."""
        current = self.current(name)
        if current is not None and self._may_live(current):
            return None
        path = self._folder / f"{name}.{current.number + 1 if current else 1}"
        claim = Claim(path, this_process(), uuid.uuid4().hex, current.process if current else None)
        if not self._create(claim):
            return None
        if (highest := self.current(name)) is not None and highest.token == claim.token:
            return claim
        claim.release()
        return None

    def current(self, name: str) -> Claim | None:
        """The claim on ``name`` that counts, be its owner alive or not."""
        numbered = [path for path in self._folder.glob(f"{name}.*") if path.suffix[1:].isdigit()]
        for path in sorted(numbered, key=lambda path: int(path.suffix[1:]), reverse=True):
            with suppress(FileNotFoundError):  # released since the folder was listed
                return _read(path)
        return None

    def holder(self, name: str) -> Process | None:
        """The process that has ``name``, as far as can be seen at once; None where none has or it is known dead."""
        current = self.current(name)
        return current.process if current and is_alive(current.process) is not False else None

    def names(self) -> set[str]:
        """Names on which there is a claim, be its owner alive or not."""
        return {path.stem for path in self._folder.glob("*-*.*") if path.suffix[1:].isdigit()}

    @contextmanager
    def held(self, names: tuple[str, ...]) -> Iterator[tuple[Claim, ...]]:
        """All of ``names`` claimed for the block, or none of them: then what is yielded is empty."""
        claims: list[Claim] = []
        try:
            for name in names:
                if (claim := self.acquire(name)) is None:
                    break
                claims.append(claim)
            whole = len(claims) == len(names)
            yield tuple(claims) if whole else ()
        finally:
            for claim in reversed(claims):
                claim.release()

    def _may_live(self, claim: Claim) -> bool:
        alive = is_alive(claim.process)
        if alive is not None:
            return alive
        try:
            beat = claim.path.stat().st_mtime_ns
        except FileNotFoundError:
            return True  # it was just released; the next look decides
        seen = self._seen.get(claim.token)
        if seen is None or seen[0] != beat:
            self._seen[claim.token] = beat, self._clock()
            return True
        return self._clock() - seen[1] < self._stale_after

    def _create(self, claim: Claim) -> bool:
        """Make the claim's file with its content, unless there is one. A link that NFS made but did not confirm
        counts: it shows in the number of links."""
        temporary = self._folder / f".{claim.token}.tmp"
        temporary.write_text(json.dumps({"token": claim.token, "process": asdict(claim.process)}), encoding="utf-8")
        try:
            os.link(temporary, claim.path)
            return True
        except FileExistsError:
            return temporary.stat().st_nlink > 1
        except OSError:
            return _copy_exclusively(temporary, claim.path)  # a file system without hard links
        finally:
            temporary.unlink(missing_ok=True)


def _copy_exclusively(source: Path, target: Path) -> bool:
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(source.read_text(encoding="utf-8"))
        return True
    except FileExistsError:
        return False


def _read(path: Path) -> Claim:
    """A claim whose content a power cut took belongs to nobody that is known: its file's time decides."""
    text = path.read_text(encoding="utf-8")
    try:
        data: dict[str, Any] = json.loads(text)
        return Claim(path, Process(**data["process"]), data["token"])
    except (ValueError, KeyError, TypeError):
        return Claim(path, NOBODY, f"{path.name} without content")
