"""Predictions beside a record: the same after reading, small, and never needed for the record itself."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qexp.results.export import write_reference
from qexp.results.outcomes import Outcomes, path_of, read, write
from qexp.results.schema import Record, ending_of
from qexp.results.store import Store, to_json
from qexp.results.table import build

CLASSES = Outcomes("class", np.array([1, 0, 1], np.int64), np.array([1, 1, 1], np.int64), "e1")
LOSSES = Outcomes("loss", np.array([300.25, 298.5]), np.array([63, 63], np.int64), "e2")


@pytest.fixture
def kept(make: Callable[..., Record], tmp_path: Path) -> Record:
    """A record with predictions on two sets, read from its folder."""
    store = Store(tmp_path)
    record = make(float=0.66, w8a8=0.33)
    sets = {"": CLASSES, "@ptb": LOSSES}
    artifacts = write(store.files("adhoc", record.cell_id), {"float": sets, "w8a8": {"": CLASSES}})
    store.save(replace(record, artifacts=artifacts))
    found = store.load(record.cell_id)
    assert found is not None
    return found


def test_what_is_read_is_what_was_written(kept: Record) -> None:
    for setting, metric, written in (("float", "accuracy", CLASSES), ("float", "perplexity@ptb", LOSSES)):
        found = read(kept, setting, metric)
        assert found is not None and (found.kind, found.examples) == (written.kind, written.examples)
        assert np.array_equal(found.values, written.values) and np.array_equal(found.references, written.references)
    assert read(kept, "w8a8", "perplexity@ptb") is None and read(kept, "w4a4", "accuracy") is None


def test_it_is_small_and_the_record_says_where_it_lies(kept: Record) -> None:
    assert kept.artifacts == {"predictions": f"{kept.cell_id}/predictions.npz"}
    found = read(kept, "float", "accuracy")
    assert found is not None and found.values.dtype == np.uint8
    assert "folder" not in to_json(kept)


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:200], lambda content: b"{}" * 99])
def test_a_damaged_file_is_as_none(kept: Record, damage: Callable[[bytes], bytes]) -> None:
    path = path_of(kept)
    assert path is not None
    path.write_bytes(damage(path.read_bytes()))
    assert read(kept, "float", "accuracy") is None
    path.unlink()
    assert read(kept, "float", "accuracy") is None and Store(path.parents[2]).load(kept.cell_id) == kept


def test_a_committed_table_has_them_where_it_is_asked_to(kept: Record, tmp_path: Path) -> None:
    for wanted in (True, False, True):
        folder = tmp_path / f"committed {wanted}"
        write_reference(build([kept]), folder, predictions=wanted)
        (again,) = Store(folder).query()
        assert (read(again, "float", "accuracy") is not None) == wanted == bool(again.artifacts)
        write_reference(build([again]), folder, predictions=wanted)


def test_objects_are_not_loaded(kept: Record) -> None:
    path = path_of(kept)
    assert path is not None
    np.savez_compressed(path, **{"float": np.array([{}, {}], object)})
    assert read(kept, "float", "accuracy") is None


def test_what_cannot_be_written_is_told_and_nothing_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING, "qexp"):
        assert write(tmp_path / "taken", {"float": {"": CLASSES}}) == {}
    assert len(caplog.records) == 1 and "predictions are not kept" in caplog.text
    assert write(tmp_path / "nothing", {}) == {} and not (tmp_path / "nothing").exists()


def test_the_set_of_a_metric() -> None:
    assert [ending_of(name) for name in ("accuracy", "accuracy_mm", "perplexity@a_mm")] == ["", "_mm", "@a_mm"]
