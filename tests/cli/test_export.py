"""``qexp export``: what it refuses in one line, and what it says when it is done. The export itself is replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qexp.conf.schema import ExperimentConfig
from qexp.results.schema import Record
from qexp.results.store import Store
from qexp.runner.export import Exported
from qexp.runner.rerun import config_of


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[ExperimentConfig, str, Path]]:
    """Replaces the export by one that talks and remembers what it was asked for."""
    calls: list[tuple[ExperimentConfig, str, Path]] = []

    def export_integer(cfg: ExperimentConfig, bits: str, folder: Path, progress: Any) -> Exported:
        print("a library prints")
        calls.append((cfg, bits, folder))
        return Exported(folder, bits, 23_100_000, 90_900_000)

    monkeypatch.setattr("qexp.runner.export.export_integer", export_integer)
    return calls


def test_a_run_by_its_id_and_the_size_beside_float32(qexp: Any, record: Record, asked: Any) -> None:
    outcome = qexp("export", record.cell_id[:6], "--to", "my model")
    assert outcome.code == 0
    assert outcome.out.splitlines() == [
        "w8a8 in integers: my model",
        "on disk   23.1 MB instead of 90.9 MB in float32 (0.25 ×)",
        'load      qexp.runner.export.load_exported("my model")',
    ]
    ((config, bits, folder),) = asked
    assert (config, bits, folder) == (config_of(record.config), "w8a8", Path("my model"))


def test_a_run_by_its_overrides_and_quietly(qexp: Any, record: Record, asked: Any) -> None:
    assert qexp("export", "seed=1", "--to", "x", "-q").out == "x\n"
    assert asked[0][0].seed == 1


def test_one_of_several_settings_is_chosen(qexp: Any, new_record: Any, asked: Any, tmp_path: Path) -> None:
    Store(tmp_path / "runs").save(new_record("quant=low_bits"))
    outcome = qexp("export", "quant=low_bits", "--to", "x")
    assert outcome.code == 2 and "5 settings; choose one with --bits w8a8 | w8a6 |" in outcome.err
    assert qexp("export", "quant=low_bits", "--to", "x", "--bits", "w4a8").code == 0
    assert asked[0][1] == "w4a8"
    assert "--bits w3a3 is no setting of this run" in qexp("export", "quant=low_bits", "--to", "x", "--bits=w3a3").err


@pytest.mark.parametrize(
    ("made", "args", "words"),
    [
        ([], ["0123456789abcdef"], "no record in runs begins with"),
        ([], ["seed=77"], "there is no record of this configuration in runs: `qexp run` it first"),
        (["quant=none"], ["quant=none"], "this run was float only (quant=none)"),
        (["quant.bits=w8a16"], ["quant.bits=w8a16"], "w8a16 cannot be executed in 8-bit integers"),
        (["quant=per_token"], ["quant=per_token"], "choose quant.activations.granularity=per_tensor"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    qexp: Any, new_record: Any, asked: Any, tmp_path: Path, made: list[str], args: list[str], words: str
) -> None:
    Store(tmp_path / "runs").save(new_record(*made))
    outcome = qexp("export", *args, "--to", "x")
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert words in outcome.err and not asked


def test_a_run_that_did_not_finish(qexp: Any, new_record: Any, asked: Any, tmp_path: Path) -> None:
    made = new_record("seed=3", status="diverged")
    Store(tmp_path / "runs").save(made)
    outcome = qexp("export", made.cell_id, "--to", "x")
    assert outcome.code == 2 and f"the run {made.cell_id[:8]} is diverged" in outcome.err


def test_a_folder_is_never_overwritten_unless_it_is_an_export_and_asked_for(
    qexp: Any, record: Record, asked: Any, tmp_path: Path
) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.tex").touch()
    assert "taken exists" in qexp("export", record.cell_id, "--to", "taken").err
    outcome = qexp("export", record.cell_id, "--to", "taken", "--force")
    assert outcome.code == 2 and "holds no exported model" in outcome.err
    assert (taken / "thesis.tex").exists() and not asked
