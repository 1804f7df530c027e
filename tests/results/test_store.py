from __future__ import annotations

import errno
import json
import logging
import math
import multiprocessing
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qexp.conf.errors import RunError, UserError
from qexp.results import store as store_module
from qexp.results.schema import RECORD_VERSION, Metric, Record
from qexp.results.store import OtherVersion, Store, from_json, to_json

Make = Callable[..., Record]
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def test_the_keys_of_a_record_are_a_contract(make: Make) -> None:
    """What scripts read from ``qexp run --json`` and from a record's file; documented in docs/record.md."""
    data = json.loads(to_json(make(float=65.0)))
    assert list(data) == [
        *("cell_id", "status", "config", "provenance", "metrics", "outliers", "integer"),
        *("analysis", "timings", "training", "artifacts", "message", "version"),
    ]
    assert data["version"] == RECORD_VERSION == 1
    entry = {"value": 65.0, "higher_is_better": False, "n": 872, "definition": "exp(mean loss), windows of 64 tokens"}
    assert data["metrics"] == {"float": {"perplexity": entry}}


def test_every_key_is_documented() -> None:
    page = Path(__file__).parents[2] / "docs" / "record.md"
    text = page.read_text(encoding="utf-8")
    names = [*Record("0" * 16, "finished", {}, {}).to_dict(), *(field.name for field in fields(Metric))]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_the_documented_example_is_a_record() -> None:
    text = (Path(__file__).parents[2] / "docs" / "record.md").read_text(encoding="utf-8")
    example = text.split("```json\n")[1].split("```")[0]
    assert json.loads(to_json(from_json(example))) == json.loads(example)


@given(config=st.dictionaries(st.text(), json_values, max_size=4), value=st.floats(allow_nan=True, allow_infinity=True))
def test_a_record_survives_writing_and_reading(config: dict[str, Any], value: float) -> None:
    metrics = {"float": {"accuracy": Metric(value, True, 3, "share of right answers")}}
    record = Record("0" * 16, "finished", config, {}, metrics=metrics)
    read = from_json(to_json(record))
    found = read.metrics["float"]["accuracy"].value
    assert found == value if math.isfinite(value) else math.isnan(found)
    assert read.config == config
    assert to_json(read) == to_json(record)


def test_json_holds_no_nan_or_infinity(make: Make) -> None:
    record = replace(make(float=math.inf), training={"final_loss": math.nan, "curve": [[1, -math.inf]]})
    data = json.loads(to_json(record), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert data["metrics"]["float"]["perplexity"]["value"] is None
    assert data["training"] == {"final_loss": None, "curve": [[1, None]]}


def test_saved_and_loaded(store: Store, make: Make) -> None:
    record = make(float=65.0)
    path = store.save(record)
    assert path == store.path("adhoc", record.cell_id) == store.root / "adhoc" / f"{record.cell_id}.json"
    assert store.load(record.cell_id) == record
    assert [entry.name for entry in path.parent.iterdir()] == [path.name], "no temporary file stays"


def test_an_unknown_id_and_an_absent_folder_are_no_record(store: Store, make: Make) -> None:
    assert store.load("0" * 16) is None
    assert store.query() == []
    store.save(make())
    assert store.load("0" * 16) is None


def test_saving_again_replaces(store: Store, make: Make) -> None:
    record = make(float=65.0)
    store.save(record)
    store.save(replace(record, message="again"))
    assert [found.message for found in store.query()] == ["again"]


@pytest.mark.parametrize(
    ("number", "expected", "words"),
    [
        (errno.ENOSPC, RunError, "disk is full"),
        (errno.EACCES, UserError, "results_dir="),
        (errno.EROFS, UserError, "results_dir="),
    ],
)
def test_a_write_that_fails_is_one_line_and_leaves_the_old_record(
    store: Store, make: Make, monkeypatch: pytest.MonkeyPatch, number: int, expected: type[Exception], words: str
) -> None:
    record = make(float=65.0)
    path = store.save(record)

    def fail(_: int) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(store_module.os, "fsync", fail)
    with pytest.raises(expected, match=words) as caught:
        store.save(replace(record, message="new"))
    with pytest.raises(expected):
        store.check_writable()
    assert "\n" not in str(caught.value)
    assert store.load(record.cell_id) == record
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_results_folder_below_a_file_is_the_users_error(tmp_path: Path, make: Make) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "runs"):
        with pytest.raises(UserError, match="cannot write"):
            Store(root).check_writable()
        with pytest.raises(UserError, match="cannot write"):
            Store(root).save(make())


def test_checking_leaves_nothing_behind(store: Store) -> None:
    store.check_writable()
    assert list(store.root.iterdir()) == []


@pytest.mark.parametrize("table", ["", "..", "../up", "a/b", ".hidden", "cache", "sweeps", "trained", "wandb"])
def test_a_table_is_a_plain_folder_name(store: Store, table: str) -> None:
    with pytest.raises(UserError, match="table="):
        store.path(table, "0" * 16)


@pytest.mark.parametrize("cell_id", ["", "short", "../../etc/passwd", "G" * 16, "0" * 17])
def test_a_cell_id_is_sixteen_hexadecimal_digits(store: Store, cell_id: str) -> None:
    with pytest.raises(ValueError, match="16 hexadecimal"):
        store.load(cell_id)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"version": 1}',
        b'{"version": 1, "metrics": {"float": {"perplexity": {"value": "x"}}}}',
        b'{"version": 1, "metrics": {"float": 3}}',
        b"[" * 100_000,
    ],
)
def test_a_corrupt_record_is_set_aside_with_one_line(
    store: Store, make: Make, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    record = make(float=65.0)
    path = store.save(record)
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING, "qexp"):
        assert store.load(record.cell_id) is None
    assert [entry.name for entry in path.parent.iterdir()] == [f"{path.name}.corrupt"]
    assert path.with_name(f"{path.name}.corrupt").read_bytes() == content
    (message,) = caplog.messages
    assert path.name in message and "\n" not in message


def test_a_truncated_record_is_never_used(store: Store, make: Make) -> None:
    record = make(float=65.0)
    content = to_json(record).rstrip()
    for length in range(0, len(content), 7):
        with pytest.raises(ValueError):
            from_json(content[:length])


def test_a_record_under_another_records_name_is_set_aside(store: Store, make: Make) -> None:
    record, other = make(seed=1), make(seed=2)
    store.save(record).rename(store.path("adhoc", other.cell_id))
    assert store.load(other.cell_id) is None
    assert store.path("adhoc", other.cell_id).with_name(f"{other.cell_id}.json.corrupt").exists()


@pytest.mark.parametrize("version", [0, RECORD_VERSION + 1])
def test_another_version_is_reported_and_kept(
    store: Store, make: Make, caplog: pytest.LogCaptureFixture, version: int
) -> None:
    paths = [store.save(replace(make(seed=seed), version=version)) for seed in (1, 2)]
    with pytest.raises(OtherVersion):
        from_json(paths[0].read_text())
    with caplog.at_level(logging.WARNING, "qexp"):
        assert store.query() == []
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith("2 record(s)")
    assert all(path.exists() for path in paths)


def test_found_by_the_beginning_of_its_id(store: Store, make: Make) -> None:
    records = [replace(make(seed=seed), cell_id=f"ab{seed}" + "0" * 13) for seed in (1, 2)]
    for record in records:
        store.save(record)
    assert store.find("ab2").cell_id == records[1].cell_id
    with pytest.raises(UserError, match="beginning of 2 records"):
        store.find("ab")
    for prefix in ("ff", "*", "../"):
        with pytest.raises(UserError, match="no record"):
            store.find(prefix)


def test_the_same_cell_in_two_tables_counts_once(store: Store, make: Make) -> None:
    record = make(float=65.0)
    store.save(record)
    store.save(replace(record, config={**record.config, "table": "other"}))
    assert len(store.query()) == 1
    assert len(store.query({"table": "other"})) == 1
    assert store.find(record.cell_id[:5]).cell_id == record.cell_id


def test_the_same_cell_with_unlike_figures_is_told(store: Store, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    record = make(float=math.nan)
    copy = replace(record, config={**record.config, "table": "other"})
    store.save(record)
    store.save(copy)
    assert len(store.query()) == 1 and not caplog.records
    store.save(replace(copy, metrics=make(float=64.0).metrics))
    assert math.isnan(store.query()[0].metrics["float"]["perplexity"].value)
    assert f"cell {record.cell_id} has unlike figures in tables adhoc and other; the first is used" in caplog.text


def test_what_is_no_record_is_left_alone(store: Store, make: Make) -> None:
    store.save(make())
    strangers = [store.root / "adhoc" / "notes.json", store.root / "cache" / f"{'0' * 16}.json"]
    for stranger in strangers:
        stranger.parent.mkdir(exist_ok=True)
        stranger.write_text("{")
    assert len(store.query()) == 1
    assert all(stranger.exists() for stranger in strangers)


def test_queries_compare_values_as_one_types_them(store: Store, make: Make) -> None:
    gamma = {"settings": {"gamma": -0.03}}
    for record in (
        make("vanilla", float=1.0),
        make("clipped_softmax", **gamma),
        make("clipped_softmax+gated_attention", **gamma, changes={"train.max_steps": 300}),
    ):
        store.save(record)

    def count(**where: Any) -> int:
        return len(store.query({key.replace("__", "."): value for key, value in where.items()}))

    assert count() == 3
    assert count(method="vanilla") == 1
    assert (
        count(method="[clipped_softmax,gated_attention]") == count(method=["clipped_softmax", "gated_attention"]) == 1
    )
    assert count(method__gamma="-0.03") == count(method__gamma=-0.03) == 2
    assert count(method__gated_attention__gamma=-0.03) == 1
    assert count(train__max_steps=300) == count(train__max_steps="300") == 1
    assert count(model="minilm") == count(model__name="minilm") == 3
    assert count(quant__weights__symmetric="true", scale="small") == 3
    assert count(status="finished", method="vanilla") == 1
    assert count(model="gpt2") == 0


def test_a_query_for_a_key_that_no_record_has_offers_near_ones(store: Store, make: Make) -> None:
    assert store.query({"train.max_stepz": 3}) == [], "nothing to compare with"
    store.save(make())
    with pytest.raises(UserError, match=r"train\.max_steps"):
        store.query({"train.max_stepz": 3})


def _save_many(root: Path, record: Record, times: int) -> None:
    for _ in range(times):
        Store(root).save(record)


def test_writers_and_readers_share_a_folder_without_locks(store: Store, make: Make) -> None:
    record = replace(make(float=65.0), training={"curve": [[step, step / 7] for step in range(2000)]})
    store.save(record)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_save_many, args=(store.root, record, 15)) for _ in range(2)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert store.load(record.cell_id) is not None
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert len(list((store.root / "adhoc").iterdir())) == 1
