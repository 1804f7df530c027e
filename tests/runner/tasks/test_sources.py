"""Folders of every form, and one clear line for whatever is wrong with one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from qexp.conf.errors import UserError
from qexp.conf.schema import TaskConfig
from qexp.runner.tasks import load_corpus
from qexp.runner.tasks.sources import UNNAMED_SHARE, read_folder

ROWS = {"train": ["one two", "", "three"], "validation": ["four"], "test": ["five", "six"]}
WANTED = tuple(ROWS)


def write_parquet(path: Path, **columns: list[Any]) -> None:
    parquet.write_table(pyarrow.table(columns), path)


def write(folder: Path, form: str, stem: str, rows: list[str]) -> None:
    if form == "parquet":
        write_parquet(folder / f"{stem}.parquet", text=rows, other=list(range(len(rows))))
    elif form == "jsonl":
        lines = [json.dumps({"text": row, "other": 1}) for row in rows]
        (folder / f"{stem}.jsonl").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    else:
        (folder / f"{stem}.txt").write_text("\n".join(rows), encoding="utf-8")


@pytest.mark.parametrize("form", ["parquet", "jsonl", "txt"])
def test_the_forms_give_the_same_rows(tmp_path: Path, form: str) -> None:
    for split, rows in ROWS.items():
        write(tmp_path, form, split, rows)
    assert read_folder(tmp_path, ["text"], WANTED) == {split: {"text": rows} for split, rows in ROWS.items()}


@pytest.mark.parametrize(
    ("stem", "split"),
    [
        ("train-00000-of-00001", "train"),
        ("train_3", "train"),
        ("val", "validation"),
        ("valid", "validation"),
        ("dev.2", "validation"),
        ("validation_matched-00000", "validation_matched"),
        ("test", "test"),
    ],
)
def test_splits_are_known_by_file_name(tmp_path: Path, stem: str, split: str) -> None:
    write(tmp_path, "txt", stem, ["a"])
    write(tmp_path, "txt", "README", ["not data"])
    assert read_folder(tmp_path, ["text"], [split]) == {split: {"text": ["a"]}}


def test_parts_of_a_split_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for part in (2, 0, 1):
        write(tmp_path, "parquet", f"train-0000{part}-of-00003", [f"part {part}"])
    assert read_folder(tmp_path, ["text"], WANTED) == {"train": {"text": ["part 0", "part 1", "part 2"]}}


def test_files_named_after_no_split_are_one_text_whose_end_is_held_out(tmp_path: Path) -> None:
    rows = [str(i) for i in range(4 * UNNAMED_SHARE)]
    write(tmp_path, "txt", "a_training_diary", rows[:30])
    write(tmp_path, "txt", "b", rows[30:])
    splits = read_folder(tmp_path, ["text"], WANTED)
    assert [len(splits[name]["text"]) for name in WANTED] == [len(rows) - 8, 4, 4]
    assert [row for name in WANTED for row in splits[name]["text"]] == rows


def spoil_parquet(folder: Path) -> None:
    (folder / "train.parquet").write_bytes(b"PAR1 not really PAR1")


def leave_empty(folder: Path) -> None:
    write_parquet(folder / "train.parquet", text=pyarrow.array([], type=pyarrow.string()))


def write_null(folder: Path) -> None:
    write_parquet(folder / "train.parquet", text=["a", None])


def write_numbers(folder: Path) -> None:
    write_parquet(folder / "train.parquet", text=[1, 2])
    write_parquet(folder / "validation.parquet", text=[1, 2])


def write_other_column(folder: Path) -> None:
    write_parquet(folder / "train.parquet", sentence=["a"], idx=[0])


def write_bad_json(folder: Path) -> None:
    (folder / "train.jsonl").write_text('{"text": "a"}\n{"text": \n')


def write_json_list(folder: Path) -> None:
    (folder / "train.jsonl").write_text('["a"]\n')


def write_latin(folder: Path) -> None:
    (folder / "train.txt").write_bytes("caf\xe9".encode("latin-1"))


def write_one_row(folder: Path) -> None:
    (folder / "words.txt").write_text("one")


def write_train_only(folder: Path) -> None:
    (folder / "train.txt").write_text("one")


def write_nothing(folder: Path) -> None:
    (folder / "notes.md").write_text("one")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_parquet, ["train.parquet", "not a readable parquet"]),
        (leave_empty, ["train.parquet", "no rows"]),
        (write_null, ["train.parquet", "'text'", "row 1"]),
        (write_numbers, ["'text'", "must hold text", "int"]),
        (write_other_column, ["train.parquet", "no column text", "sentence, idx"]),
        (write_bad_json, ["train.jsonl, line 2", "not JSON"]),
        (write_json_list, ["train.jsonl, line 1", "JSON object"]),
        (write_latin, ["train.txt", "UTF-8"]),
        (write_one_row, ["too few to split"]),
        (write_train_only, ["no split 'validation'", "train"]),
        (write_nothing, ["no .parquet, .jsonl or .txt"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_wrong_with_a_folder_is_said_in_one_line(
    tmp_path: Path, text_config: Callable[..., TaskConfig], spoil: Callable[[Path], None], said: list[str]
) -> None:
    spoil(tmp_path)
    with pytest.raises(UserError) as stopped:
        load_corpus(text_config(tmp_path), None)
    assert "\n" not in str(stopped.value)
    assert all(part in str(stopped.value) for part in said), stopped.value


def test_a_folder_is_found_below_the_data_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for split, rows in ROWS.items():
        write(tmp_path / "mine", "txt", split, rows)
    cfg = TaskConfig(name="mine", kind="text", folder="mine", path="owner/mine")
    corpus = load_corpus(cfg, str(tmp_path))
    assert list(corpus.texts()) == ROWS["train"] and corpus.eval_splits == ("validation",)
    assert set(corpus.splits) == {"train", "validation"} and corpus.num_labels is None


def test_missing_data_names_the_environment_variable_and_the_embedded_tasks(tmp_path: Path) -> None:
    cfg = TaskConfig(name="ptb", kind="text", folder="ptb")
    with pytest.raises(UserError, match=r"QEXP_DATA_DIR.*ptb/train.*task=pydocs.*task=pydocs_labels"):
        load_corpus(cfg, str(tmp_path))
    with pytest.raises(UserError, match="which is no folder"):
        load_corpus(cfg, str(tmp_path / "absent"))
    with pytest.raises(UserError, match="no such folder"):
        load_corpus(TaskConfig(name="t", kind="text", folder=str(tmp_path / "absent")), None)
    with pytest.raises(UserError, match=r"give task\.folder="):
        load_corpus(TaskConfig(name="text_folder", kind="text"), None)


@pytest.mark.slow
def test_an_unreachable_hub_is_said_at_once_with_the_ways_out() -> None:
    """The session's tests are offline (``HF_HUB_OFFLINE``): no name is looked up."""
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    cfg = TaskConfig(name="sst2", kind="glue", path="nyu-mll/glue", subset="sst2", folder="glue/sst2")
    start = time.monotonic()
    with pytest.raises(UserError, match=r"nyu-mll/glue.*QEXP_DATA_DIR.*glue/sst2.*task=pydocs_labels"):
        load_corpus(cfg, None)
    assert time.monotonic() - start < 20
    assert datasets.config.HF_HUB_OFFLINE == before


def test_the_fingerprint_is_of_the_rows_and_not_of_their_form(tmp_path: Path) -> None:
    seen = set()
    for form in ("parquet", "jsonl", "txt"):
        folder = tmp_path / form
        folder.mkdir()
        for split, rows in ROWS.items():
            write(folder, form, split, rows)
        seen.add(load_corpus(TaskConfig(name=form, kind="text", folder=str(folder)), None).fingerprint)
    assert len(seen) == 1
    write(tmp_path / "txt", "txt", "train", ["one", "two", "three"])
    assert load_corpus(TaskConfig(name="txt", kind="text", folder=str(tmp_path / "txt")), None).fingerprint not in seen
