"""``launcher=slurm``: its settings and refusals."""

from __future__ import annotations

import sys

import pytest

from qexp.conf.errors import UserError
from qexp.conf.sweeps import SlurmConfig
from qexp.runner.sweep.settings import compose_settings
from qexp.runner.sweep.slurm import check_cluster


def test_settings() -> None:
    launcher = compose_settings(["launcher=slurm", "launcher.time=5", "launcher.extra.account=me"]).launcher
    assert isinstance(launcher, SlurmConfig)
    assert (launcher.time, launcher.extra) == (5, {"account": "me"})


def test_a_machine_without_slurm_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="no sbatch on this machine"):
        check_cluster()


def test_without_submitit_the_command_that_installs_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"pip install 'qexp\[slurm\]'"):
        check_cluster()
