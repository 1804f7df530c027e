"""Raw rows: from a folder of parquet, JSON-lines or text files, or from the Hugging Face hub."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qexp.conf.errors import UserError
from qexp.conf.schema import IMAGE_KINDS, TaskConfig

Columns = Mapping[str, Sequence[Any]]
"""One split: column name -> values, all of one length."""
Reader = Callable[[Path, Sequence[str]], Columns]
"""Reads the named columns of one file."""

EMBEDDED = "task=pydocs, task=pydocs_labels or task=pydocs_questions, which need no data"
HUB_TIMEOUT_SECONDS = 5.0
UNNAMED_SHARE = 20
"""Where no file is named after a split, one row in this many is validation and as many are test."""

_SPLIT = re.compile(r"(train|validation|valid|val|dev|test)(_matched|_mismatched)?(?![a-z])")
_OTHER_NAMES = {"valid": "validation", "val": "validation", "dev": "validation"}
_log = logging.getLogger(__name__)


def load_splits(
    cfg: TaskConfig,
    data_dir: str | None,
    columns: Sequence[str],
    wanted: Iterable[str],
    readers: Mapping[str, Reader] | None = None,
) -> dict[str, Columns]:
    """Those of the ``wanted`` splits that exist, with the given columns, as lists.

    A local folder goes before the hub; ``readers`` are those of its files by suffix, :data:`READERS` where None. Raises
    ``UserError`` where neither has the data.
    """
    folder = find_folder(cfg, data_dir)
    if folder is not None:
        return read_folder(folder, columns, wanted, readers)
    if cfg.path is not None:
        return read_hub(cfg, columns, wanted)
    raise UserError(f"task={cfg.name} has no data: give task.folder=<folder of train*.parquet, .jsonl or .txt files>")


def find_folder(cfg: TaskConfig, data_dir: str | None) -> Path | None:
    """The task's local folder: absolute, or below ``data_dir``, or (without a hub name) below the working folder."""
    if data_dir and not Path(data_dir).expanduser().is_dir():
        raise UserError(f"QEXP_DATA_DIR (data_dir) is {data_dir!r}, which is no folder")
    if cfg.folder is None:
        return None
    named = Path(cfg.folder).expanduser()
    places = [Path(data_dir).expanduser() / named] if data_dir else []
    places += [] if cfg.path is not None and not named.is_absolute() else [named]
    found = next((place for place in places if place.is_dir()), None)
    if found is None and named.is_absolute():
        raise UserError(f"task.folder={cfg.folder}: no such folder; give one that holds train*.parquet, .jsonl or .txt")
    if found is None and cfg.path is None:
        raise UserError(f"task={cfg.name}: there is no folder {cfg.folder}; {_local_form(cfg)}, or use {EMBEDDED}")
    return found


def read_folder(
    folder: Path, columns: Sequence[str], wanted: Iterable[str], readers: Mapping[str, Reader] | None = None
) -> dict[str, Columns]:
    """Splits by file name (``train-00000-of-00003.parquet``, ``dev.jsonl``, ``test.txt``).

    Where no file is named after a split, all rows in order of file names are one text: its last tenth is cut into
    validation and test.
    """
    readers = readers or READERS
    files = sorted(path for path in folder.iterdir() if path.suffix in readers)
    if not files:
        raise UserError(f"{folder} holds no {', '.join([*readers][:-1])} or {[*readers][-1]} file")
    by_split: dict[str, list[Path]] = {}
    for path in files:
        if name := split_of(path.stem):
            by_split.setdefault(name, []).append(path)
    if not by_split:
        return _cut(_read_files(files, columns, readers), folder)
    return {name: _read_files(by_split[name], columns, readers) for name in wanted if name in by_split}


def split_of(name: str) -> str | None:
    """The split that a file or folder is named after (``dev`` is ``validation``), or None."""
    match = _SPLIT.match(name)
    return _OTHER_NAMES.get(match[1], match[1]) + (match[2] or "") if match else None


def _cut(rows: Columns, folder: Path) -> dict[str, Columns]:
    total = len(next(iter(rows.values())))
    if total < 3:
        raise UserError(f"{folder} has {total} rows: too few to split into train, validation and test")
    held_out = max(1, total // UNNAMED_SHARE)
    ends = {"train": (0, total - 2 * held_out), "validation": (-2 * held_out, -held_out), "test": (-held_out, total)}
    return {split: {c: values[a:b] for c, values in rows.items()} for split, (a, b) in ends.items()}


def _read_files(files: Sequence[Path], columns: Sequence[str], readers: Mapping[str, Reader]) -> Columns:
    rows: dict[str, list[Any]] = {column: [] for column in columns}
    for path in files:
        for column, values in readers[path.suffix](path, columns).items():
            rows[column].extend(values)
            if None in values:
                raise UserError(f"{path}: column {column!r} is empty in row {list(values).index(None)}")
    if not rows[columns[0]]:
        raise UserError(f"{files[0]} holds no rows")
    return rows


def _read_parquet(path: Path, columns: Sequence[str]) -> Columns:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            require_columns(columns, file.schema_arrow.names, str(path))
            table = file.read(columns=list(columns))
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a readable parquet file: {_first_line(error)}") from error
    return {column: table.column(column).to_pylist() for column in columns}


def _read_jsonl(path: Path, columns: Sequence[str]) -> Columns:
    rows: dict[str, list[Any]] = {column: [] for column in columns}
    for number, line in enumerate(_read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number} is not a JSON object")
        require_columns(columns, list(row), f"{path}, line {number}")
        for column in columns:
            rows[column].append(row[column])
    return rows


def _read_text(path: Path, columns: Sequence[str]) -> Columns:
    """Every line is a row of the one text column."""
    if len(columns) != 1:
        raise UserError(f"{path}: a text file has no columns {', '.join(columns)}; use parquet or JSON lines")
    return {columns[0]: _read_lines(path)}


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split("\n")
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path} is not readable as UTF-8 text: {_first_line(error)}") from error


READERS: dict[str, Reader] = {
    ".parquet": _read_parquet,
    ".jsonl": _read_jsonl,
    ".txt": _read_text,
}


def require_columns(columns: Sequence[str], present: Sequence[str], place: str) -> None:
    missing = [column for column in columns if column not in present]
    if missing:
        raise UserError(f"{place} has no column {', '.join(missing)}; its columns are {', '.join(present)}")


def read_hub(cfg: TaskConfig, columns: Sequence[str], wanted: Iterable[str]) -> dict[str, Columns]:
    """The columns of a data set of the hub, as lists."""
    loaded = open_hub(cfg)
    found = [name for name in wanted if name in loaded]
    for name in found:
        require_columns(columns, loaded[name].column_names, f"{cfg.path}, split {name}")
    return {name: {column: list(loaded[name][column]) for column in columns} for name in found}


def open_hub(cfg: TaskConfig) -> Any:
    """The data set from the hub, or from the hub's cache on this machine; without either, fails in seconds."""
    import datasets

    assert cfg.path is not None
    online = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = online or not _hub_answers(cfg.path)
    try:
        return datasets.load_dataset(cfg.path, cfg.subset)
    except (OSError, ValueError) as error:
        _log.debug("hub: %s", error)
        raise UserError(_unreachable(cfg)) from error
    finally:
        datasets.config.HF_HUB_OFFLINE = online


def _hub_answers(path: str) -> bool:
    """One short question, since ``load_dataset`` itself tries for half a minute before it gives up."""
    from huggingface_hub import HfApi

    try:
        HfApi().dataset_info(path, timeout=HUB_TIMEOUT_SECONDS)
    except Exception as error:  # its HTTP library's own exceptions: which library that is changes with its version
        _log.debug("hub: %s", error)
        return False
    return True


def _unreachable(cfg: TaskConfig) -> str:
    embedded = "task=digits, which needs no data" if cfg.kind in IMAGE_KINDS else EMBEDDED
    return (
        f"task={cfg.name}: {cfg.path} is neither on this machine nor reachable on the hub; "
        f"{_local_form(cfg)}, or use {embedded}"
    )


def _local_form(cfg: TaskConfig) -> str:
    if cfg.folder is None:
        return "give task.folder=<folder of train*.parquet, .jsonl or .txt files>"
    official = " or the official train*.json" if cfg.kind == "squad" else ""
    return f"set QEXP_DATA_DIR to a folder that holds {cfg.folder}/train*.parquet{official}"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
