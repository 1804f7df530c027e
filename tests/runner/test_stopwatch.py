"""What a stopwatch measures."""

from __future__ import annotations

import sys

import pytest

from qexp.runner.stopwatch import Cost, Stopwatch


def test_stopwatch_measures_cpu_time_within_wall_time() -> None:
    with Stopwatch() as watch:
        sum(i * i for i in range(200_000))
    assert 0 < watch.cpu and 0 < watch.wall
    assert set(watch.facts()) >= {"wall_seconds", "cpu_seconds", "peak_memory_bytes"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux lets a process reset its peak memory")
def test_nested_stopwatches_keep_their_own_peaks() -> None:
    size = 64 * 2**20
    with Stopwatch() as outer:
        with Stopwatch() as big:
            block = bytearray(b"x" * size)
            del block
        with Stopwatch() as small:
            pass
    assert outer.peak_memory >= big.peak_memory >= small.peak_memory + size // 2


def test_stopwatch_stops_when_the_block_raises() -> None:
    with pytest.raises(ValueError), Stopwatch() as watch:
        raise ValueError
    assert watch.wall > 0 and watch not in Stopwatch._running


def test_processes_that_worked_for_this_one_are_charged_to_it() -> None:
    with Stopwatch() as outer, Stopwatch() as inner:
        Stopwatch.charge([Cost(2.0, 2**40, 5), Cost(1.0, 2**40, 7)])
        Stopwatch.charge([Cost(1.0, 2**40, 3)])
    with Stopwatch() as later:
        pass
    for watch in (outer, inner):
        assert watch.cpu >= 4.0 and watch.peak_gpu_memory == 7
        assert 2 * 2**40 < watch.peak_memory < 3 * 2**40, "of those that ran at once"
    assert later.cpu < 1.0 and later.peak_memory < 2**40
