"""Records docs/sweep.svg: a sweep that is killed, in a real terminal, and resumed. Needs pexpect and npm.

Run with: python docs/record_sweep.py
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pexpect
import psutil

SWEEP = (
    "qexp sweep method=vanilla,gated_attention seed=1,2 model=tiny_bert task=pydocs_labels scale=smoke tracking=none"
)
SIZE, FRAME, LONGEST = (20, 112), 0.5, 30.0
"""Rows and columns; seconds that one frame gathers; seconds that the animation lasts at most."""
PICTURE = Path(__file__).with_name("sweep.svg")


class Recording:
    """Output with its times, as pexpect's log file."""

    def __init__(self) -> None:
        self.frames: list[tuple[float, str]] = []

    def write(self, text: str) -> None:
        now = time.monotonic()
        if self.frames and now - self.frames[-1][0] < FRAME:
            now, text = self.frames[-1][0], self.frames.pop()[1] + text
        self.frames.append((now, text))

    def flush(self) -> None: ...

    def cast(self) -> str:
        """The asciicast, version 2; one that is too long is shown faster."""
        first, last = self.frames[0][0], self.frames[-1][0]
        pace = min(1.0, LONGEST / (last - first))
        header = {"version": 2, "width": SIZE[1], "height": SIZE[0]}
        events = [[(at - first) * pace, "o", text] for at, text in self.frames]
        return "\n".join(map(json.dumps, [header, *events, [(last - first) * pace + 4, "o", ""]])) + "\n"


def session(folder: str) -> Recording:
    recording = Recording()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PS1": "$ ", "TERM": "xterm-256color", "PATH": path}
    shell = pexpect.spawn(
        "bash", ["--norc"], cwd=folder, env=environment, dimensions=SIZE, encoding="utf-8", timeout=600
    )
    shell.logfile_read = recording
    shell.expect(re.escape("$ "))
    shell.sendline(SWEEP)
    shell.expect("finished .* 2 of 4")
    for process in psutil.Process(shell.pid).children(recursive=True)[::-1]:
        process.kill()
    shell.expect("Killed")
    for line in ("# kill -9, of the sweep and of its workers", "qexp status", "qexp resume"):
        shell.expect(re.escape("$ "))
        time.sleep(2)
        shell.sendline(line)
    shell.expect("4 cells: 4 finished")
    shell.expect(re.escape("$ "))
    return recording


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        cast = Path(folder) / "session.cast"
        cast.write_text(session(folder).cast(), encoding="utf-8")
        subprocess.run(["npx", "--yes", "svg-term-cli@2.1.1", "--in", cast, "--out", PICTURE, "--window"], check=True)


if __name__ == "__main__":
    main()
