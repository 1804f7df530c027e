"""The facts that are kept with a record."""

from __future__ import annotations

import getpass
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import pytest

from qexp.runner import provenance
from qexp.runner.compose import compose
from qexp.runner.identity import training_id
from qexp.runner.provenance import collect


def test_collected_facts_are_plain_and_name_no_place_or_person() -> None:
    cfg = compose(["seed=5"])
    facts = collect(cfg, "abc")
    text = json.dumps(facts)
    assert (facts["seed"], facts["calibration_seed"], facts["data_fingerprint"]) == (5, 2000, "abc")
    assert facts["training_id"] == training_id(cfg)
    assert facts["packages"]["torch"] and set(facts["cpu"]["isa"]) == {"avx2", "avx_vnni", "avx512_vnni", "amx"}
    assert str(Path.home()) not in text and f'"{platform.node()}"' not in text and f'"{getpass.getuser()}"' not in text


def test_git_state_of_a_repository(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    monkeypatch.setattr(provenance, "checkout", lambda: tmp_path)
    git("init")
    assert provenance.git_state() is None  # no commit yet
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "first")
    clean = provenance.git_state()
    assert clean is not None and clean["dirty"] is False and len(clean["commit"]) == 40
    (tmp_path / "file").write_text("2")
    assert provenance.git_state() == {"commit": clean["commit"], "dirty": True}


def test_an_installed_package_has_no_git_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "checkout", lambda: None)
    assert provenance.git_state() is None
