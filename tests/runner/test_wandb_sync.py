"""What of the offline runs is uploaded, and what is said where nothing can be. No server is asked here."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import pytest

from qexp.conf.errors import RunError, UserError
from qexp.results.schema import Record
from qexp.results.store import Store
from qexp.runner import wandb_sync
from qexp.runner.wandb_sync import backlog, upload

KEY = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {"table": "adhoc"}


def leave_run(results_dir: Path, cell: str, begun: str = "1", synced: bool = False, record: bool = True) -> Path:
    file = results_dir / "wandb" / f"offline-run-{begun}-{cell}" / f"run-{cell}.wandb"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    if synced:
        file.with_suffix(".wandb.synced").touch()
    if record:
        Store(results_dir).save(Record(cell, "finished", CONFIG, {}))
    return file


@pytest.fixture
def logged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)


def test_runs_with_a_record_and_without_a_marker_are_due_in_the_order_they_were_begun(tmp_path: Path) -> None:
    cells = [f"{n:016x}" for n in range(4)]
    second = leave_run(tmp_path, cells[0], begun="2")
    first = leave_run(tmp_path, cells[0], begun="1")
    leave_run(tmp_path, cells[1], synced=True)
    leave_run(tmp_path, cells[2], record=False)
    leave_run(tmp_path, "agent123", record=False)
    found = backlog(tmp_path)
    assert [run.file for run in found.due] == [first, second]
    assert (found.synced, found.unfinished) == (1, 2)
    assert backlog(tmp_path / "nothing").due == ()


def test_only_what_is_due_is_handed_to_wandb_and_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged_in: None
) -> None:
    calls: list[list[str]] = []

    def sync(command: list[str], **_: Any) -> Any:
        calls.append(command[3:])
        for file in command[4:-1]:
            Path(file).with_suffix(".wandb.synced").touch()
        return type("Done", (), {"stdout": "wandb: Syncing\nwandb: ERROR no such project\n", "stderr": ""})

    monkeypatch.setattr(wandb_sync, "require_wandb", lambda: None)
    monkeypatch.setattr("subprocess.run", sync)
    files = [leave_run(tmp_path, f"{n:016x}") for n in range(2)]
    with pytest.raises(RunError, match=r"1 of 2 runs were not uploaded \(ERROR no such project\)"):
        upload(backlog(tmp_path).due)
    assert calls == [["sync", *map(str, files)]]
    assert [run.file for run in backlog(tmp_path).due] == files[1:]


def test_without_a_login_and_without_a_server_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    leave_run(tmp_path, "0" * 16)
    with pytest.raises(UserError, match="no W&B login here: run `wandb login` first"):
        upload(backlog(tmp_path).due)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and no one listens
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_BASE_URL", address)
        begun = time.monotonic()
        with pytest.raises(RunError, match=f"W&B at {address} cannot be reached") as error:
            upload(backlog(tmp_path).due)
    assert time.monotonic() - begun < 15 and KEY not in str(error.value)
    assert len(backlog(tmp_path).due) == 1
