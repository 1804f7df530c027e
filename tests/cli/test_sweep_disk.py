"""Sweeps on a disk that is full or takes nothing: one line, and what was there stays. A small disk is a ``tmpfs``."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qexp.runner.sweep.folder import SweepFolder
from qexp.runner.sweep.plan import plan_sweep

SWEEP = ("model=tiny_bert", "task=pydocs", "scale=smoke", "tracking=none", "seed=1,2")
Disk = Path


def mount(*arguments: str | Path) -> bool:
    try:
        return not subprocess.run(["mount", *arguments], capture_output=True).returncode
    except FileNotFoundError:
        return False


@pytest.fixture
def disk(qexp: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """The working directory, on a disk of 128 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=128k", "tmpfs", path):
        pytest.skip("may not mount a tmpfs")
    monkeypatch.chdir(path)
    yield path
    monkeypatch.chdir(tmp_path)
    subprocess.run(["umount", "--lazy", path], check=True)


def fill(disk: Disk) -> None:
    with (disk / "fill").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(4096))


@pytest.mark.parametrize("command", [["sweep", *SWEEP], ["resume"], ["cancel"]])
def test_a_folder_that_is_read_only(qexp: Any, disk: Disk, command: list[str]) -> None:
    SweepFolder.create(plan_sweep(SWEEP)[0])
    assert mount("-o", "remount,ro", disk)
    outcome = qexp(*command)
    assert outcome.code == 2 and outcome.err.count("\n") == 1
    assert "Read-only file system; choose another folder with results_dir" in outcome.err
    assert "2 cells: 2 waiting" in qexp("status").out


def test_a_disk_that_is_full_before_the_sweep(qexp: Any, disk: Disk) -> None:
    fill(disk)
    outcome = qexp("sweep", *SWEEP)
    assert outcome.code == 1 and outcome.err.count("\n") == 1 and "the disk is full" in outcome.err
    (disk / "fill").unlink()
    assert not list(disk.rglob("*.tmp")) and qexp("status").code == 2


def test_a_disk_that_is_full_when_a_sweep_goes_on(qexp: Any, disk: Disk) -> None:
    folder = SweepFolder.create(plan_sweep(SWEEP)[0])
    launch = folder.new_launch(["launcher.workers=1"])
    fill(disk)
    outcome = qexp("resume")
    assert outcome.code == 1 and "the disk is full" in outcome.err.splitlines()[-1]
    (disk / "fill").unlink()
    assert folder.launch() > launch and folder.settings(folder.launch()) == ("launcher.workers=1",)
