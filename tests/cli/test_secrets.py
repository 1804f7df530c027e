"""A credential in the environment is in no file that qexp leaves, and one that is typed by mistake is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qexp.runner.sweep.folder import SweepFolder
from qexp.runner.sweep.heart import Heart
from qexp.runner.sweep.plan import plan_sweep

SECRETS = {"WANDB_API_KEY": "5ec2e7" * 7, "HF_TOKEN": "hf_" + "Pl4nted" * 5}
SMALL = (
    *("model=tiny_bert", "task=./text", "scale=smoke", "tracking=offline", "train.max_steps=2", "model.vocab_size=64"),
    *("quant.calibration.batches=1", "eval.outlier_batches=1", "sweep.search=random", "sweep.trials=1"),
)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


def test_no_file_of_a_sweep_its_table_and_its_report_holds_a_secret(qexp: Any, tmp_path: Path, planted: None) -> None:
    import wandb

    from qexp.runner.sweep.worker import Worker

    (tmp_path / "text").mkdir()
    for split in ("train", "validation"):
        (tmp_path / "text" / f"{split}.txt").write_text("the model reads plain text and learns what comes next\n" * 40)
    folder = SweepFolder.create(plan_sweep([*SMALL, "train.learning_rate=interval(1e-4,1e-3)"])[0])
    launch = folder.new_launch()
    heart = Heart(folder, parent=None)
    try:
        Worker(folder, launch, 1, threads=1, heart=heart).run()
    finally:
        heart.end()
        wandb.teardown()
    commands = ["status", "status --json", "table", "table --format csv", "report quickstart", "track sync --dry-run"]
    said = [qexp(*command.split()) for command in commands]
    assert [outcome.code for outcome in said] == [0] * len(said), said
    assert said[-1].out == "1 run would be uploaded\n"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    kinds = {path.suffix for path in files}
    assert {".json", ".jsonl", ".log", ".html", ".wandb"} <= kinds
    found = [path for path in files for secret in SECRETS.values() if secret.encode() in path.read_bytes()]
    assert not found
    assert not any(secret in outcome.out + outcome.err for outcome in said for secret in SECRETS.values())


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (["run", f"tracking.entity={SECRETS['WANDB_API_KEY']}"], "tracking.entity"),
        (["run", f"WANDB_API_KEY={SECRETS['WANDB_API_KEY']}"], "WANDB_API_KEY"),
        (["sweep", "seed=1,2", f"tracking.group=a,{SECRETS['HF_TOKEN']}"], "tracking.group"),
        (["sweep", "seed=1,2", f"launcher.extra.key={SECRETS['WANDB_API_KEY']}"], "launcher.extra.key"),
        (["run", f"{SECRETS['HF_TOKEN']}=1"], "an override"),
        (["config", "model.revision=hf_" + "a1B2" * 8], "model.revision"),
    ],
)
def test_a_typed_secret_is_refused_without_repeating_it(
    qexp: Any, tmp_path: Path, planted: None, arguments: list[str], where: str
) -> None:
    outcome = qexp(*arguments)
    assert outcome.code == 2 and outcome.out == "" and not list(tmp_path.iterdir())
    assert f"error: {where}: this is a credential" in outcome.err and outcome.err.count("\n") == 1
    assert not any(secret in outcome.err for secret in SECRETS.values())
