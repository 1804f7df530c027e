"""What W&B receives is what the record says, nobody is asked, and nothing of it can end a run."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from qexp.conf.errors import UserError
from qexp.conf.schema import ExperimentConfig
from qexp.results.schema import Metric, Record
from qexp.runner import tracking
from qexp.runner.identity import cell_id
from qexp.runner.tracked_values import summary_values
from qexp.runner.tracking import NullTracker, WandbTracker, make_tracker
from qexp.runner.wandb_account import wandb_login

EXECUTED = {
    "certificate": {
        **{
            "backend": "avx2",
            "isa": "avx2",
            "products": [{"name": "layers.0.query", "kind": "linear", "backend": "avx2"}],
        },
        "in_float": [{"name": "classifier", "why": "the head has no sites"}],
    },
    "gap": {"metric": 0.25, "argmax_agreement": 0.999, "definition": "executed minus simulated"},
}
KEY = "0123456789abcdef0123456789abcdef01234567"


def config(results_dir: Path, mode: str = "auto") -> ExperimentConfig:
    return TypeAdapter(ExperimentConfig).validate_python(
        {
            "method": [{"name": "vanilla"}],
            "model": {"name": "tiny", "source": "scratch"},
            "task": {"name": "pydocs", "kind": "pydocs_text"},
            "quant": {"name": "paper"},
            "train": {"name": "short", "learning_rate": 3e-4},
            "eval": {},
            "tracking": {"name": mode, "mode": mode},
            "results_dir": str(results_dir),
        }
    )


def record(cfg: ExperimentConfig, artifacts: dict[str, str] | None = None) -> Record:
    return Record(
        cell_id=cell_id(cfg),
        status="finished",
        config={},
        provenance={},
        metrics={
            "float": {"perplexity": Metric(12.5, False, 640, "per token"), "accuracy": Metric(0.75, True, 64, "a")},
            "w8a8.integer": {"perplexity": Metric(13.25, False, 640, "per token")},
        },
        integer={"w8a8": EXECUTED},
        outliers={"summary": {"max_inf_norm": 7.5, "definition": "of ffn_output"}, "sites": {}},
        timings={"train": 1.5},
        artifacts=artifacts or {},
    )


@pytest.fixture(autouse=True)
def nobody_logged_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))


@pytest.fixture
def wandb_stopped() -> Iterator[None]:
    yield
    import wandb

    wandb.teardown()


def inspect(results_dir: Path) -> dict[str, Any]:
    """The offline run as wandb's own reader prints it."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(results_dir / "wandb")]
    found: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


def png(path: Path) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)


def test_an_offline_run_read_back_is_the_record(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], wandb_stopped: None
) -> None:
    cfg = config(tmp_path)
    png(tmp_path / "adhoc" / "heat.png")
    kept = record(cfg, {"heatmap.ffn_output": "heat.png", "gone": "gone.png"})
    tracker = make_tracker(cfg, cell_id(cfg))
    for step in (1, 2):
        tracker.log({"train/loss": 1.0 / step}, step=step)
    assert tracker.address() is None  # offline
    tracker.summary(kept)
    tracker.close()
    assert capfd.readouterr() == ("", "")

    run = inspect(tmp_path)
    assert (run["run_id"], run["state"], run["exit_code"]) == (kept.cell_id, "finished", 0)
    assert run["config"]["train"]["learning_rate"] == 3e-4
    values = summary_values(kept)
    assert run["summary"].items() >= {**values, "train/loss": 0.5}.items()
    assert (values["w8a8.integer/gap/metric"], values["w8a8.integer/gap/argmax_agreement"]) == (0.25, 0.999)
    assert values["w8a8.integer/certificate"].startswith("1 of 2 products in int8")
    assert run["summary"]["heatmap.ffn_output"]["_type"] == "image-file" and "gone" not in run["summary"]
    [table] = (tmp_path / "wandb").glob("offline-run-*/files/media/table/*.json")
    rows = json.loads(table.read_text())
    assert [dict(zip(rows["columns"], row, strict=True)) for row in rows["data"]] == [
        {"setting": setting, "metric": name, **vars(metric)}
        for setting, metrics in kept.metrics.items()
        for name, metric in metrics.items()
    ]


def test_a_failed_run_is_marked(tmp_path: Path, wandb_stopped: None) -> None:
    cfg = config(tmp_path, "offline")
    tracker = make_tracker(cfg, cell_id(cfg))
    tracker.log({"train/loss": float("nan")}, step=1)
    tracker.close(exit_code=1)
    assert inspect(tmp_path)["exit_code"] == 1


def test_a_tracker_that_logs_nothing_leaves_nothing(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    make_tracker(cfg, cell_id(cfg)).close()
    assert list(tmp_path.iterdir()) == []


def test_none_imports_no_wandb(tmp_path: Path) -> None:
    program = (
        "import sys; from qexp.runner.tracking import NullTracker as N; t = N();"
        "t.log({}, 1); t.table('t', (), ()); t.close(); sys.exit('wandb' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert isinstance(make_tracker(config(tmp_path, "none"), "0"), NullTracker)


def mode_of(tracker: object) -> str:
    return tracker._mode if isinstance(tracker, WandbTracker) else "none"


def test_auto_is_offline_without_a_login_and_online_with_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mode_of(make_tracker(config(tmp_path), "0")) == "offline"
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert mode_of(make_tracker(config(tmp_path), "0")) == "online"
    assert mode_of(make_tracker(config(tmp_path, "offline"), "0")) == "offline"


@pytest.mark.parametrize(("variable", "expected"), [("offline", "offline"), ("disabled", "none"), ("online", "online")])
def test_auto_follows_wandbs_own_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, expected: str
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", variable)
    assert mode_of(make_tracker(config(tmp_path), "0")) == expected


def test_online_without_a_login_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="wandb login") as refusal:
        make_tracker(config(tmp_path, "online"), "0")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("server", ["", "https://wandb.example.org:8080"])
def test_the_login_is_found_where_wandb_login_puts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    from wandb.sdk.lib.wbauth import write_netrc_auth

    if server:
        (tmp_path / "wandb-config").mkdir()
        (tmp_path / "wandb-config" / "settings").write_text(f"[default]\nbase_url = {server}\n")
    assert wandb_login() is None
    write_netrc_auth(host="https://other.example.org", api_key=KEY)
    assert wandb_login() is None
    write_netrc_auth(host=server or "https://api.wandb.ai", api_key=KEY)
    assert wandb_login() == str(tmp_path / "netrc")


def test_a_malformed_netrc_is_no_login(tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine\nnonsense ][")
    assert wandb_login() is None


def test_the_key_reaches_no_figure_or_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import asdict

    from qexp.runner.provenance import collect

    monkeypatch.setenv("WANDB_API_KEY", KEY)
    cfg = config(tmp_path)
    assert KEY not in json.dumps([asdict(cfg), collect(cfg, ""), summary_values(record(cfg)), wandb_login()])


def test_what_fails_in_wandb_is_said_once_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import wandb

    def broken(**_: Any) -> None:
        raise RuntimeError("no service\nand a long trace")

    monkeypatch.setattr(wandb, "init", broken)
    cfg = config(tmp_path)
    tracker = make_tracker(cfg, cell_id(cfg))
    with caplog.at_level(logging.WARNING):
        tracker.log({"train/loss": 1.0}, step=1)
        tracker.summary(record(cfg))
        tracker.close()
    assert [message for message in caplog.messages if "no service" in message] == caplog.messages
    assert len(caplog.messages) == 1 and "\n" not in caplog.messages[0]


def test_online_that_cannot_connect_goes_on_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import wandb

    modes: list[str] = []

    class Run:
        def log(self, metrics: dict[str, float], step: int) -> None:
            assert metrics == {"train/loss": 1.0}

    def init(**settings: Any) -> Run:
        modes.append(settings["mode"])
        if settings["mode"] == "online":
            raise wandb.errors.CommError("timed out")
        return Run()

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with caplog.at_level(logging.WARNING):
        make_tracker(config(tmp_path), "0").log({"train/loss": 1.0}, step=1)
    assert modes == ["online", "offline"] and "offline" in caplog.text


def test_null_and_wandb_trackers_have_the_same_methods() -> None:
    names = {name for name in vars(tracking.Tracker) if not name.startswith("_")}
    for tracker in (NullTracker, WandbTracker):
        assert {name for name in vars(tracker) if not name.startswith("_")} == names


def test_a_run_is_named_by_its_cell_but_in_a_wandb_sweep_by_its_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    started: list[dict[str, Any]] = []
    monkeypatch.setattr(wandb, "init", lambda **settings: started.append(settings))
    monkeypatch.setenv("WANDB_RUN_ID", "agent123")
    for sweep in ("", "sweep456"):
        monkeypatch.setenv("WANDB_SWEEP_ID", sweep)
        make_tracker(config(tmp_path), "0" * 16).log({}, step=1)
    assert [settings["id"] for settings in started] == ["0" * 16, "agent123"]
    assert {(settings["group"], settings["job_type"]) for settings in started} == {(None, "vanilla")}
