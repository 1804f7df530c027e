"""Claims: one owner at a time, whatever dies and whatever the clocks say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from qexp.runner.sweep import claims as module
from qexp.runner.sweep.claims import Claim, Claims
from qexp.runner.sweep.processes import Process, is_alive, this_process

ELSEWHERE = Process("far", "another machine", 1, "1")
DEAD = replace(this_process(), started="before")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def left_by(folder: Path, process: Process, name: str = "a", number: int = 1) -> Path:
    path = folder / f"{name}.{number}"
    content = {"token": f"{process.pid}-{number}", "process": vars(process)}
    path.write_text(json.dumps(content))
    return path


def test_one_owner_at_a_time(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    first = claims.acquire("a")
    assert first is not None and first.beat()
    assert claims.acquire("a") is None and Claims(tmp_path).acquire("a") is None
    assert claims.acquire("b") is not None
    assert claims.holder("a") == this_process()
    first.release()
    assert claims.holder("a") is None
    assert claims.acquire("a") is not None


def test_of_many_threads_one_gets_the_claim(tmp_path: Path) -> None:
    left_by(tmp_path, DEAD)
    start, got = threading.Barrier(16), []

    def try_it() -> None:
        start.wait()
        got.append(Claims(tmp_path).acquire("a"))

    threads = [threading.Thread(target=try_it) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (owner,) = [claim for claim in got if claim is not None]
    assert owner.number == 2 and owner.took_over == DEAD
    assert {path.name for path in tmp_path.iterdir()} == {"a.1", "a.2"}
    owner.forget_dead()
    owner.release()
    assert not list(tmp_path.iterdir())


def test_a_dead_process_of_this_machine_is_taken_over_at_once(tmp_path: Path) -> None:
    script = (
        "import pathlib, sys, time; from qexp.runner.sweep.claims import Claims\n"
        "assert Claims(pathlib.Path(sys.argv[1])).acquire('a'); print('got it', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "got it\n"
        claims = Claims(tmp_path)
        assert claims.acquire("a") is None
        child.kill()
        claim = claims.acquire("a") if child.wait() else None
    assert claim is not None and claim.took_over is not None and claim.took_over.pid == child.pid


@pytest.mark.parametrize("skew", [-1e9, 0, 1e9])
def test_a_process_elsewhere_is_dead_once_it_did_not_beat_while_we_watched(tmp_path: Path, skew: float) -> None:
    path, clock = left_by(tmp_path, ELSEWHERE), Clock()
    claims = Claims(tmp_path, stale_after=100, clock=clock)
    os.utime(path, (2e9 + skew, 2e9 + skew))
    assert claims.acquire("a") is None
    clock.now = 99
    assert claims.acquire("a") is None
    os.utime(path, (2e9 + skew - 50, 2e9 + skew - 50))  # a beat, by a clock that was set back
    clock.now = 150
    assert claims.acquire("a") is None
    clock.now = 249
    assert claims.acquire("a") is None
    clock.now = 251
    claim = claims.acquire("a")
    assert claim is not None and claim.took_over == ELSEWHERE


def test_an_owner_that_was_taken_for_dead_learns_of_it(tmp_path: Path) -> None:
    slow = Claim(left_by(tmp_path, ELSEWHERE), ELSEWHERE, "1-1")
    assert slow.beat()
    clock = Clock()
    claims = Claims(tmp_path, stale_after=1, clock=clock)
    assert claims.acquire("a") is None
    clock.now = 2
    assert claims.acquire("a") is not None
    assert not slow.beat()
    slow.release()
    assert claims.acquire("a") is None


def test_a_claim_without_content_is_nobodys_and_goes_stale(tmp_path: Path) -> None:
    (tmp_path / "a.1").touch()
    clock = Clock()
    claims = Claims(tmp_path, stale_after=1, clock=clock)
    assert claims.acquire("a") is None
    clock.now = 2
    assert claims.acquire("a") is not None


def test_several_names_are_claimed_together_or_not_at_all(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    with claims.held(("a", "b")) as both:
        assert [claim.name for claim in both] == ["a", "b"]
        with claims.held(("c", "b")) as none:
            assert none == ()
        assert claims.holder("c") is None
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(module.os, "link", no_links)
    claims = Claims(tmp_path)
    assert claims.acquire("a") is not None and claims.acquire("a") is None


def test_processes() -> None:
    assert is_alive(this_process()) is True
    assert is_alive(DEAD) is False
    assert is_alive(replace(this_process(), pid=2**22 + 1)) is False
    assert is_alive(ELSEWHERE) is None
